#!/bin/sh
# Starts what the container is asked to run. Libraries keep caches in HOME, which a read-only root file system, or a
# user other than 1000, cannot write: then HOME is in the temporary directory.
set -eu
if [ ! -w "$HOME" ]; then
  HOME=${TMPDIR:-/tmp}/home
  mkdir -p "$HOME"
  export HOME
fi
exec "$@"
