# Installs Debian packages if the user may, or prints the command; sourced by other scripts.

# apt_install PACKAGE...: installs, or prints the command and fails. Services are not started.
apt_install() (
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
  fi
  if ! command -v apt-get >/dev/null; then
    echo "These programs are missing, and there is no apt-get to install them: $*" >&2
    return 1
  fi
  if [ "${#as_root[@]}" -gt 0 ] && ! { command -v sudo && sudo -v; } >/dev/null; then
    echo "Missing Debian packages. Run as root: apt-get install --no-install-recommends $*" >&2
    return 1
  fi
  echo "Installing Debian packages: $*"
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
)
