#!/usr/bin/env bash
# Builds the Debian package from a checkout: packaging/debian/build.sh OUTPUT_FOLDER
#
# The package has a virtual environment in /opt/streamedge with all Python packages, so it is for the
# Debian release whose Python builds it. PIP_OPTIONS are further options of pip, for example
# "--no-index --find-links DIR" to build without a network. PYTHON, which has StreamEdge's packages,
# writes the man page and the completions; by default the package's own does.
set -euo pipefail

output=$(realpath "${1:?usage: build.sh OUTPUT_FOLDER}")
source=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
read -ra pip_options <<<"${PIP_OPTIONS:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
python=${PYTHON:-$root/opt/streamedge/bin/python3}
umask 022

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml")
architecture=$(dpkg --print-architecture)
minor=$(/usr/bin/python3 -c 'import sys; print(sys.version_info.minor)')

# The virtual environment, with paths as they are after the installation.
mkdir -p "$root/opt"
/usr/bin/python3 -m venv "$root/opt/streamedge"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps "${pip_options[@]}" \
  --wheel-dir "$work/wheel" "$source"
"$root/opt/streamedge/bin/python3" -m pip install --quiet --disable-pip-version-check \
  --no-compile "${pip_options[@]}" "$work"/wheel/*.whl
manual=$("$python" "$source/tools/write_man_page.py")
completions() { PYTHONPATH=$source "$python" -m streamedge completion "$1"; }

cd "$root/opt/streamedge"
"bin/python3" -m pip uninstall --quiet --yes setuptools pip
rm -rf bin/activate* bin/Activate* bin/pip* bin/python bin/python3.* include lib64
find bin -type f ! -name streamedge -delete  # of other packages
grep -rlI "^#!$root" bin | xargs -r sed -i "1s|^#!$root|#!|"
sed -i -e "s|$root||" -e '/^command/d' pyvenv.cfg
ln -s python3 bin/python
find . -name __pycache__ -type d -prune -exec rm -rf {} +
find . -name 'direct_url.json' -delete
find lib -type f -exec chmod a-x {} +
find lib -type d -empty -delete

install -d "$root/usr/bin" "$root/usr/share/man/man1" "$root/etc/streamedge"
ln -s /opt/streamedge/bin/streamedge "$root/usr/bin/streamedge"
printf '%s\n' "$manual" | gzip -9n >"$root/usr/share/man/man1/streamedge.1.gz"
install -D -m 644 "$source/packaging/systemd/streamedge.service" \
  "$root/usr/lib/systemd/system/streamedge.service"
install -D -m 644 "$source/packaging/systemd/streamedge.sysusers" \
  "$root/usr/lib/sysusers.d/streamedge.conf"
install -D -m 644 "$source/packaging/systemd/streamedge.tmpfiles" \
  "$root/usr/lib/tmpfiles.d/streamedge.conf"
install -d "$root/usr/share/bash-completion/completions" \
  "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
completions bash >"$root/usr/share/bash-completion/completions/streamedge"
completions zsh >"$root/usr/share/zsh/vendor-completions/_streamedge"
completions fish >"$root/usr/share/fish/vendor_completions.d/streamedge.fish"
install -D -m 640 "$source/packaging/debian/config.toml" "$root/etc/streamedge/config.toml"
install -D -m 644 "$source/packaging/debian/copyright" "$root/usr/share/doc/streamedge/copyright"
install -D -m 644 "$source/packaging/debian/lintian-overrides" \
  "$root/usr/share/lintian/overrides/streamedge"
changelog="streamedge ($version) unstable; urgency=medium

  * See CHANGELOG.md of the project.

 -- StreamEdge <streamedge@localhost.invalid>  $(date -R -d "@$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)")"
printf '%s\n' "$changelog" | gzip -9n >"$root/usr/share/doc/streamedge/changelog.gz"

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do
  install -m 755 "$source/packaging/debian/$script" "$root/DEBIAN/$script"
done
echo /etc/streamedge/config.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: streamedge
Version: $version
Architecture: $architecture
Maintainer: StreamEdge <streamedge@localhost.invalid>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), libc6, adduser
Recommends: ca-certificates, systemd
Section: net
Priority: optional
Description: edge of a content delivery network for HTTP and RTMP
 StreamEdge is one edge location of a content delivery network. It caches
 objects of S3 buckets, web servers and folders, and sends them to viewers over
 HTTP, HTTPS and RTMP while they are still arriving from their origin.
CONTROL
(cd "$root" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z |
  xargs -0 md5sum) >"$root/DEBIAN/md5sums"
mkdir -p "$output"
dpkg-deb --root-owner-group --build "$root" "$output/streamedge_${version}_$architecture.deb"
