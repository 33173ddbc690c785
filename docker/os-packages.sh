#!/bin/sh
# Installs Debian packages in the image, only those that are missing: a base that holds them needs no network.
#   os-packages.sh PACKAGE...
set -eu

missing=''
for package in "$@"; do
  # shellcheck disable=SC2016 # dpkg-query's own variable
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Nothing is started: sshd would otherwise come up during the build, on the builder's own network.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
# Documentation stays out, licences stay in (the bill of materials names them).
cat >/etc/dpkg/dpkg.cfg.d/tunefleet <<'END'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
END
export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086 # one word a package
apt-get install --yes --no-install-recommends $missing
# Byte code that is not compared with its source's time: the layers' files all get one fixed time.
for python in /usr/bin/python3.[0-9]*; do
  [ ! -x "$python" ] || "$python" -m compileall -q -f --invalidation-mode unchecked-hash "/usr/lib/${python##*/}"
done
apt-get clean
# The host keys that the package made are nobody's secret if they are in an image. The rest differs from build to build.
rm -rf /etc/ssh/ssh_host_* /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
  /var/lib/dpkg/*-old /var/log/apt /var/log/*.log /tmp/*
