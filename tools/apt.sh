# Sourced by its neighbours: Debian packages, installed when that is allowed, named when it is not.

# apt_install PACKAGE...: installs, or says what to type and fails.
apt_install() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
  fi
  if ! command -v apt-get >/dev/null; then
    echo "Missing, and there is no apt-get here to install them with: $*" >&2
    return 1
  fi
  if [ "${#as_root[@]}" -gt 0 ] && ! { command -v sudo && sudo -v; } >/dev/null; then
    echo "Missing Debian packages. As root, type: apt-get install --no-install-recommends $*" >&2
    return 1
  fi
  echo "Installing Debian packages: $*"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
