#!/usr/bin/env bash
# Installs missing programs that the tests and benchmarks need.
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tools/apt.sh
source "$tools/apt.sh"
PATH="$PATH:/usr/sbin:/sbin"

missing=()
command -v ffmpeg >/dev/null || missing+=(ffmpeg)
command -v rtmpdump >/dev/null || missing+=(rtmpdump)
command -v curl >/dev/null || missing+=(curl)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v strace >/dev/null || missing+=(strace)
command -v chromium >/dev/null || missing+=(chromium)
command -v rclone >/dev/null || missing+=(rclone)
command -v caddy >/dev/null || missing+=(caddy)
command -v nginx >/dev/null || missing+=(nginx-light)
[ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || missing+=(libnginx-mod-rtmp)
command -v promtool >/dev/null || missing+=(prometheus)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v pdns_server >/dev/null || missing+=(pdns-server)
compgen -G "/usr/lib/*/pdns/libgeoipbackend.so" >/dev/null || missing+=(pdns-backend-geoip)
compgen -G "/usr/lib/*/pdns/libgsqlite3backend.so" >/dev/null || missing+=(pdns-backend-sqlite3)
command -v goaccess >/dev/null || missing+=(goaccess)
[ -e /usr/lib/cgi-bin/awstats.pl ] || missing+=(awstats)
command -v tc >/dev/null || missing+=(iproute2)
command -v mpv >/dev/null || missing+=(mpv)
command -v cvlc >/dev/null || missing+=(vlc-bin vlc-plugin-base)
command -v dig >/dev/null || missing+=(bind9-dnsutils)
command -v wrk >/dev/null || missing+=(wrk)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v gst-launch-1.0 >/dev/null || missing+=(gstreamer1.0-tools)
compgen -G "/usr/lib/*/gstreamer-1.0/libgstrtmp2.so" >/dev/null || missing+=(gstreamer1.0-plugins-bad)
compgen -G "/usr/lib/*/gio/modules/libgiognutls.so" >/dev/null || missing+=(glib-networking)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v lintian >/dev/null || missing+=(lintian)
command -v man >/dev/null || missing+=(man-db)
command -v zsh >/dev/null || missing+=(zsh)
command -v fish >/dev/null || missing+=(fish)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v setpriv >/dev/null || missing+=(util-linux)
compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || missing+=(libfaketime)

if [ "${#missing[@]}" -gt 0 ]; then
  apt_install "${missing[@]}"
fi

# A reader of access logs that is a package of Node. Its version is the name of a file that says
# that it is installed.
reader=cloudfront-log-parser@1.2.0
folder="$tools/../.node"
if [ ! -e "$folder/$reader" ]; then
  echo "Installing $reader"
  rm -rf "$folder"
  npm install --silent --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
    --prefix "$folder" "$reader" >/dev/null
  touch "$folder/$reader"
fi
