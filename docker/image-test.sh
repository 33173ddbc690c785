#!/bin/bash
# `make image-test` runs this inside the image: as user 1000, read-only, without network and without capabilities.
set -euo pipefail
cd /opt/tunefleet

main() {
  check "user 1000 with a name and no capabilities" is_locked_down
  check "nothing can be written but /tmp" is_read_only
  check "no compiler, no pip and no cache of one" is_bare
  check "no host key, nothing of the build" has_no_leftovers
  check "a bill of materials" has_sbom
  check "tcmalloc and Intel's OpenMP runtime, preloaded" preloads
  check "sshd on 2222, with the job's key and no other" logs_in
  check "mpirun, two ranks over ssh" runs_mpi
  check "a fine-tune of the demo's model" fine_tunes
  echo "image-test: passed"
}

# Each check runs in a process of its own, so that the first command in it that fails ends it (not so after `if`).
check() {
  local started=$SECONDS what=$1
  shift
  "$@" >/tmp/out 2>&1 &
  if ! wait $!; then
    cat /tmp/out
    echo "image-test: FAILED: $what" >&2
    exit 1
  fi
  echo "image-test: $what ($((SECONDS - started)) s)"
}

# A command that must fail.
refused() {
  if "$@"; then
    echo "went through: $*"
    return 1
  fi
}

is_locked_down() {
  [ "$(id -u):$(id -un):$(id -g)" = 1000:mpiuser:1000 ]
  grep -E '^Cap(Prm|Eff|Bnd):' /proc/self/status
  refused grep -E '^Cap(Prm|Eff|Bnd):.*[1-9a-f]' /proc/self/status
  grep -x 'NoNewPrivs:[[:space:]]*1' /proc/self/status
}

is_read_only() {
  local place
  for place in / /opt/tunefleet /opt/venv /home/mpiuser /var/lib; do
    refused touch "$place/probe"
  done
  touch "$HOME/probe" /tmp/probe
}

is_bare() {
  local tool
  for tool in gcc cc g++ c++ ld make pip pip3 git curl; do
    refused command -v "$tool"
  done
  refused python -c 'import pip'
  refused grep . <(find /opt /home /root -name pip -o -name '*.whl' -o -name '*.a' -o -name '*.h' 2>/dev/null)
}

has_no_leftovers() {
  refused ls /etc/ssh/ssh_host_*
  refused grep . <(find /var/lib/apt/lists /var/cache/apt /build /wheels -type f 2>/dev/null)
}

has_sbom() {
  python - <<'END'
import json
components = json.load(open("/usr/share/tunefleet/sbom.cdx.json"))["components"]
names = {one["purl"].split("@")[0] for one in components}
assert "pkg:pypi/torch" in names and any(name.endswith("/openssh-server") for name in names), sorted(names)
END
}

preloads() {
  local libraries=/usr/local/lib/libtcmalloc.so:/usr/local/lib/libiomp5.so
  [ "$(uname -m)" = x86_64 ] || libraries=/usr/local/lib/libtcmalloc.so
  LD_PRELOAD=$libraries python -c '
import sys, torch
torch.ones(64, 64) @ torch.ones(64, 64)
maps = open("/proc/self/maps").read()
for library in sys.argv[1].split(":"):
    name = {"libtcmalloc.so": "libtcmalloc_minimal"}.get(library.split("/")[-1], library.split("/")[-1])
    assert name in maps, name
' "$libraries"
}

logs_in() {
  local home=/home/mpiuser
  ssh-keygen -q -t ecdsa -b 521 -N '' -f $home/.ssh/id_rsa
  cp $home/.ssh/id_rsa.pub $home/.ssh/authorized_keys
  ssh-keygen -q -t ecdsa -N '' -f /tmp/stranger
  /usr/sbin/sshd -De -f $home/.sshd_config 2>/tmp/sshd.log &
  for _ in {1..50}; do
    ! (: </dev/tcp/127.0.0.1/2222) 2>/dev/null || break
    sleep 0.1
  done
  [ "$(ssh first id -u)" = 1000 ]
  ssh first 'python -c "import train"'
  refused ssh -i /tmp/stranger -o IdentitiesOnly=yes first true
}

runs_mpi() {
  printf 'first slots=1\nsecond slots=1\n' >/tmp/hosts
  # Both hosts are this one: their daemons would write the machine's topology into one and the same file of /tmp.
  # shellcheck disable=SC2016 # the ranks' own variables
  mpirun --mca rtc_hwloc_vmhole none --hostfile /tmp/hosts -n 2 sh -c 'echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE"' >/tmp/ranks
  cat /tmp/ranks
  [ "$(sort /tmp/ranks | tr '\n' ,)" = "rank 0 of 2,rank 1 of 2," ]
}

fine_tunes() {
  python -m scripts.run --overlay demo --runs-dir /tmp/runs --until merge --set num_train_epochs= max_steps=4 max_eval_samples=16
  ls /tmp/runs/demo-*/merged/model.safetensors
}

main
