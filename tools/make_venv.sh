#!/usr/bin/env bash
# make_venv.sh FOLDER: creates a virtual environment with the first Python that is new enough.
set -euo pipefail
folder=$1
# shellcheck source=tools/apt.sh
source "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

# Finds Python 3.11 or newer with the venv module, which Debian ships separately. Each candidate is
# run, because a name on PATH may be a stub (pyenv). A Python built with profile-guided optimization
# is preferred: it makes Python's part of a hit a quarter cheaper (docs/development/decisions.md).
# Debian's Python is built so, pyenv's only with an option.
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
    echo "StreamEdge needs Python 3.11 or newer with the venv module. None was found as python3," \
      "python3.13, python3.12 or python3.11. On Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
  fi
fi

echo "Creating $folder with $("$python" --version)"
# An incomplete environment would be used the next time.
trap 'rm -rf "$folder"' ERR
"$python" -m venv --clear "$folder"
