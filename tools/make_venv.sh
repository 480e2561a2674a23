#!/usr/bin/env bash
# make_venv.sh FOLDER: makes a virtual environment with the first Python that is new enough.
set -euo pipefail
folder=$1
# shellcheck source=tools/apt.sh
source "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

# Python 3.11 or newer that can make a virtual environment: Debian ships that part on its own. A
# name on PATH proves nothing (pyenv puts stubs there), so each one is run. One that was built with
# profile-guided optimization comes first: Python's part of a hit costs a quarter less then
# (ARCHITECTURE.md). What pyenv builds is not, unless it is told to; what Debian ships is.
usable_python() {
  local candidate other=
  for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c \
      'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      if is_optimized "$candidate"; then
        echo "$candidate"
        return
      fi
      other=${other:-$candidate}
    fi
  done
  echo "$other"
  [ -n "$other" ]
}

is_optimized() {
  "$1" -c 'import sys, sysconfig
built = sysconfig.get_config_var("CONFIG_ARGS") or ""
sys.exit(sys.base_prefix != "/usr" and "--enable-optimizations" not in built)'
}

if ! python=$(usable_python); then
  apt_install python3 python3-venv || true
  if ! python=$(usable_python); then
    echo "StreamEdge needs Python 3.11 or newer with the venv module, and found none as python3," \
      "python3.13, python3.12 or python3.11. On Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
  fi
fi

echo "Making $folder with $("$python" --version)"
# A half-made environment would pass for a whole one the next time.
trap 'rm -rf "$folder"' ERR
"$python" -m venv --clear "$folder"
