#!/bin/bash
# Installs Python packages into /opt/venv, in a build stage of the image.
#   python-packages.sh torch FILE       torch and what only it brings (CUDA's libraries), without what the lock holds
#   python-packages.sh locked FILE...   packages by their hashes, nothing else
#   python-packages.sh drop-gpu         take out the parts of packages that need a GPU
# Wheels come from /wheels where that folder holds any, else from the index; TORCH_INDEX and ONECCL_INDEX are indexes.
set -euo pipefail

packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

main() {
  case $1 in
    torch) shift; install_torch "$@" ;;
    locked) shift; install_locked "$@" ;;
    drop-gpu) rm -f "$packages"/bitsandbytes/libbitsandbytes_{cuda,rocm,hip,xpu}*.so ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
}

pip() { /opt/pip/bin/pip --python /opt/venv/bin/python --disable-pip-version-check --no-input --quiet "$@"; }

source=()
if compgen -G '/wheels/*.whl' >/dev/null; then source=(--no-index --find-links /wheels); fi

install_torch() {
  local index=("${source[@]}")
  if [ ${#index[@]} = 0 ] && [ -n "${TORCH_INDEX-}" ]; then index=(--index-url "$TORCH_INDEX"); fi
  if [ ${#source[@]} = 0 ] && [ -n "${ONECCL_INDEX-}" ]; then index+=(--extra-index-url "$ONECCL_INDEX"); fi
  # torch's requirements at the lock's versions, so that they fit; then out with those the lock installs by hash.
  sed -n 's/^\([a-z0-9][^ ]*==[^ ]*\).*/\1/p' requirements.txt >constraints.txt
  pip install --no-cache-dir --no-compile "${index[@]}" --constraint constraints.txt --requirement "$1"
  pip uninstall --yes --requirement constraints.txt
  finish
}

install_locked() {
  local file files=()
  for file in "$@"; do files+=(--requirement "$file"); done
  pip install --no-cache-dir --no-compile "${source[@]}" --no-deps --require-hashes "${files[@]}"
  finish
}

# What only compilers and testers need goes. Byte code is made here, for a read-only image cannot; it is not compared
# with its source's time, since all files of a layer get the same one. Files for a newer Python do not compile: no error.
finish() {
  rm -rf "$packages"/torch/{include,share,test} "$packages"/torch/bin/{protoc*,test_*,*_test}
  find "$packages" -depth -type d \( -name tests -o -name include \) -exec rm -rf {} +
  find /opt/venv \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' \) -delete
  # Of Intel's OpenMP package only the runtime: the rest, 90 MB, offloads to devices.
  rm -rf /opt/venv/opt/compiler
  find /opt/venv/lib -maxdepth 1 \( -name 'libomp*' -o -name 'libarcher*' -o -name 'libiomp*' \) ! -name libiomp5.so -delete
  PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q -q -f --invalidation-mode unchecked-hash /opt/venv/lib || true
}

main "$@"
