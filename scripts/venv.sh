#!/usr/bin/env bash
# Installs the packages into .venv. make calls it; it may be interrupted at any moment and called again.
#   scripts/venv.sh base       what the programs need: torch first, then requirements.txt by its hashes
#   scripts/venv.sh ansible    what bringing an image to nodes needs, a tenth of the above
#   scripts/venv.sh dev        what the tests and linters need besides
#   scripts/venv.sh download   fetch all of it into the folder $WHEELS, for a machine without network
# Reads PYTHON3, TORCH_INDEX and WHEELS from the environment.
set -euo pipefail

venv=.venv
python=$venv/bin/python
# A user's pip settings that would break a virtual environment; where packages come from stays as configured.
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

main() {
  one_at_a_time
  case ${1-} in
    base) make_venv; install_base; say "done" ;;
    ansible) make_venv; install_locked requirements-ansible.txt "what make push needs" ;;
    dev) forget_half_installed; install_locked requirements-dev.txt "what tests and linters need" ;;
    download) download_wheels ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
}

say() { echo "venv: $*" >&2; }

fail() {
  printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 2
}

# Two makes in two terminals would write into the same environment (macOS has no flock, and no such promise).
one_at_a_time() {
  command -v flock >/dev/null || return 0
  exec 9>>.venv.lock
  flock --nonblock 9 || { say "another make is installing into .venv; waiting for it"; flock 9; }
}

make_venv() {
  if [ -e "$venv/.made" ] && "$python" -m pip --version >/dev/null 2>&1; then
    forget_half_installed
    return
  fi
  check_python
  say "making .venv with $("$PYTHON3" --version)"
  rm -rf "$venv"
  "$PYTHON3" -m venv "$venv" || fail "$PYTHON3 could not make a virtual environment" "see the message above"
  touch "$venv/.made"
}

check_python() {
  local install='apt-get install python3 python3-venv (Debian, Ubuntu), dnf install python3.12 (Fedora, RHEL) or brew install python@3.12 (macOS)'
  command -v "$PYTHON3" >/dev/null || fail "there is no $PYTHON3" "$install; or PYTHON3=/path/to/python3"
  if ! "$PYTHON3" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    fail "$("$PYTHON3" --version 2>&1 | head -n 1) is too old: 3.11 or later is needed" "$(newer_python)$install"
  fi
  "$PYTHON3" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON3 cannot make virtual environments: its venv or ensurepip module is missing" \
      "apt-get install python3-venv (Debian, Ubuntu; for another version python3.12-venv and so on); or PYTHON3=/path/to/python3"
}

newer_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11; do
    if "$candidate" -c '' 2>/dev/null; then
      echo "make ... PYTHON3=$candidate, which is here; or "
      return
    fi
  done
}

# pip writes INSTALLER when a package is complete. One that was cut off lacks it, yet pip would count it as installed.
forget_half_installed() {
  local info
  for info in "$venv"/lib/python3*/site-packages/*.dist-info; do
    if [ -d "$info" ] && [ ! -e "$info/INSTALLER" ]; then
      say "an interrupted installation left $(basename "$info" .dist-info) half done: once more"
      rm -rf "$info"
    fi
  done
  rm -rf "$venv"/lib/python3*/site-packages/~* # what pip had put aside while it replaced a package
}

install_base() {
  check_wheels
  say "installing $(torch) from ${WHEELS:-${TORCH_INDEX:-the package index}} (once; 200 MB on CPUs, more on GPUs)"
  pip_install "${torch_source[@]}" -r requirements-torch.txt
  install_locked requirements.txt "the other packages"
  # torch's own requirements came unpinned with it and were brought to the lock's versions: do all still agree?
  "$python" -m pip check >/dev/null || fail "the installed packages do not fit together" "make clean-venv venv"
}

install_locked() {
  check_wheels
  say "installing $2: $1, $(grep -c '==' "$1") packages by their hashes"
  pip_install "${source[@]}" --no-deps --require-hashes -r "$1"
}

pip_install() {
  "$python" -m pip --quiet --quiet install "$@" ||
    fail "pip could not install (message above)" "check network, proxy and disk (2 GB in .venv), then the same command again; or without network: WHEELS=folder"
}

check_wheels() {
  source=() torch_source=()
  if [ -n "$WHEELS" ]; then
    [ -d "$WHEELS" ] || fail "WHEELS: $WHEELS is no directory" "make wheels WHEELS=\"$WHEELS\" on a connected machine, and bring it here"
    source=(--no-index --find-links "$WHEELS")
    torch_source=("${source[@]}")
  elif [ -n "$TORCH_INDEX" ]; then
    torch_source=(--index-url "$TORCH_INDEX")
  fi
}

download_wheels() {
  [ -n "$WHEELS" ] || fail "WHEELS is not set" "make wheels WHEELS=folder"
  mkdir -p "$WHEELS"
  local folder=$WHEELS
  WHEELS='' check_wheels
  say "fetching $(torch) and the locked packages into $folder"
  fetch "$folder" "${torch_source[@]}" -r requirements-torch.txt
  fetch "$folder" --no-deps --require-hashes -r requirements.txt
  fetch "$folder" --no-deps --require-hashes -r requirements-ansible.txt
  fetch "$folder" --no-deps --require-hashes -r requirements-dev.txt
  fetch "$folder" --no-deps --require-hashes -r docker/requirements-openmp.txt # for the image
  say "$folder holds $(find "$folder" -type f | wc -l) files; elsewhere: make run WHEELS=\"$folder\""
}

fetch() {
  "$python" -m pip --quiet --quiet download --dest "$@" || fail "pip could not fetch (message above)" "the same command goes on"
}

torch() { grep '^torch' requirements-torch.txt; }

main "$@"
