"""The peers: nginx as a file server, as a cache with and without slices, and as an RTMP server.

Each configuration follows the manual's advice for media, and writes an access log as StreamEdge
does. Every start has its own prefix, ports and cache. nginx is an origin, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine import raise_open_files
from bench.servers.certificate import Pair
from bench.servers.server import (
    LOOPBACK,
    BenchError,
    Server,
    accepts,
    free_port,
    process,
    scratch_folder,
)

SENDFILE = "nginx sendfile"
TLS = "nginx TLS"
SLICE = "nginx slice"
PROXY_CACHE = "nginx proxy_cache"
RTMP = "nginx-rtmp"
SITE = "nginx"
ORIGIN = "nginx origin"
APPLICATION = "vod"
WORKER_CONNECTIONS = 32768
TYPES = "types { text/html html; text/css css; image/jpeg jpg; }"


@contextmanager
def nginx_sendfile(folder: Path, *, core: int | None) -> Iterator[Server]:
    """The files of ``folder`` over HTTP, with a cache of open files."""
    port = free_port()
    block = f"""
        sendfile on;
        tcp_nopush on;
        open_file_cache max=1000 inactive=60s;
        server {{ listen {LOOPBACK}:{port} backlog=4096; root {folder}; }}"""
    with _nginx(_http(block), workers=1, core=core, ports=[port]) as pid:
        yield Server(SENDFILE, pid, http_port=port)


@contextmanager
def nginx_tls(folder: Path, pair: Pair, *, core: int | None) -> Iterator[Server]:
    """The files of ``folder`` over HTTPS, with a cache of open files."""
    port = free_port()
    block = f"""
        sendfile on;
        tcp_nopush on;
        open_file_cache max=1000 inactive=60s;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:viewers:10m;
        server {{
            listen {LOOPBACK}:{port} ssl backlog=4096;
            ssl_certificate {pair.certificate};
            ssl_certificate_key {pair.key};
            root {folder};
        }}"""
    with _nginx(_http(block), workers=1, core=core, ports=[port]) as pid:
        yield Server(TLS, pid, https_port=port)


@contextmanager
def nginx_cache(
    origin_port: int, *, slices: bool, workers: int, core: int | None, cache: Path | None = None
) -> Iterator[Server]:
    """A cache in front of the origin with proxy_cache_lock, for 1 MB slices or whole objects.

    ``cache``: a folder that outlives the server; None: a new one.
    """
    port = free_port()
    by_slice = """
            slice 1m;
            proxy_cache_key $uri$slice_range;
            proxy_set_header Range $slice_range;
            proxy_cache_valid 206 1d;"""
    whole = """
            proxy_cache_key $uri;
            proxy_cache_valid 200 1d;"""
    block = f"""
        sendfile on;
        tcp_nopush on;
        proxy_cache_path {cache or "cache"} levels=1:2 keys_zone=media:32m max_size=40g
            inactive=1d use_temp_path=off;
        upstream origin {{ server {LOOPBACK}:{origin_port}; keepalive 64; }}
        server {{
            listen {LOOPBACK}:{port} backlog=4096;
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache media;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 60s;  # the default of 5 s sends waiting readers to the origin
            proxy_cache_lock_age 60s;
            add_header X-Cache $upstream_cache_status;{by_slice if slices else whole}
        }}""".replace(
        "            proxy_pass http://origin;",
        "            location / { proxy_pass http://origin; }",
    )
    with _nginx(_http(block), workers=workers, core=core, ports=[port]) as pid:
        yield Server(SLICE if slices else PROXY_CACHE, pid, http_port=port)


@contextmanager
def nginx_origin(folder: Path, *, core: int | None) -> Iterator[Server]:
    """The origin of a web site: its files, and responses that it makes for a request.

    ``/copies/FILE/KEY`` is the file for every key, ``/dynamic/`` is private, ``/gone/`` is 404 and
    ``/private/`` 403, both for a day.
    """
    port = free_port()
    block = f"""
        {TYPES}
        sendfile on;
        tcp_nopush on;
        open_file_cache max=1000 inactive=60s;
        server {{
            listen {LOOPBACK}:{port} backlog=4096;
            access_log off;
            root {folder};
            add_header Cache-Control "public, max-age=86400" always;
            location /copies/ {{ rewrite ^/copies/([^/]+)/ /$1 break; }}
            location /gone/ {{ return 404 "gone"; }}
            location /private/ {{ return 403 "private"; }}
            location /dynamic/ {{
                add_header Cache-Control "private, no-store";
                default_type text/html;
                return 200 "{"x" * 1024}";
            }}
        }}"""
    with _nginx(_http(block), workers=1, core=core, ports=[port]) as pid:
        yield Server(ORIGIN, pid, http_port=port)


@contextmanager
def nginx_site(folder: Path, origin_port: int, pair: Pair, *, core: int | None) -> Iterator[Server]:
    """A web site over HTTP, HTTPS and HTTP/2: files of ``folder`` and a cache of the origin.

    What a cache would have is served in the way that costs nginx least: a file with sendfile and a
    cache of open files, compressed beforehand where viewers accept it. Other responses are the
    origin's: cached with proxy_cache if they may be, else passed through. The origin's connections
    are kept alive.
    """
    http_port, https_port = free_port(), free_port()
    block = f"""
        {TYPES}
        sendfile on;
        tcp_nopush on;
        open_file_cache max=1000 inactive=60s;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:viewers:10m;
        proxy_cache_path cache levels=1:2 keys_zone=site:64m max_size=40g inactive=1d
            use_temp_path=off;
        proxy_cache_key $uri;
        proxy_cache_lock on;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        upstream origin {{
            server {LOOPBACK}:{origin_port};
            keepalive 64;
            keepalive_requests 1000000000;
        }}
        server {{
            listen {LOOPBACK}:{http_port} backlog=4096;
            listen {LOOPBACK}:{https_port} ssl http2 backlog=4096;
            ssl_certificate {pair.certificate};
            ssl_certificate_key {pair.key};
            root {folder};
            location / {{ add_header Cache-Control "public, max-age=86400"; }}
            location = /style.css {{
                add_header Cache-Control "public, max-age=86400";
                gzip_static on;
            }}
            location /copies/ {{ proxy_pass http://origin; proxy_cache site; }}
            location /gone/ {{ proxy_pass http://origin; proxy_cache site; }}
            location /dynamic/ {{ proxy_pass http://origin; }}
            location /secure/ {{ return 301 https://$host$request_uri; }}
            location /private/ {{
                proxy_pass http://origin;
                proxy_cache site;
                proxy_intercept_errors on;
                error_page 403 /errors/403.html;
            }}
        }}"""
    ports = [http_port, https_port]
    with _nginx(_http(block), workers=1, core=core, ports=ports) as pid:
        yield Server(SITE, pid, http_port=http_port, https_port=https_port)


@contextmanager
def nginx_rtmp(source: Path | str, *, core: int | None) -> Iterator[Server]:
    """Video on demand from a folder, or from ``http://…`` as nginx-rtmp fetches it."""
    port = free_port()
    config = f"""
    rtmp {{
        access_log off;
        server {{
            listen {LOOPBACK}:{port};
            chunk_size 4096;
            application {APPLICATION} {{ play {source}; }}
        }}
    }}"""
    with _nginx(config, workers=1, core=core, ports=[port]) as pid:
        yield Server(RTMP, pid, rtmp_port=port)


def version() -> str:
    """The version that ``nginx -v`` prints. Raises BenchError when it is not installed."""
    return _build("-v").strip().rpartition("/")[2]


def _http(block: str) -> str:
    temporary = "".join(
        f"\n        {kind}_temp_path temp-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
    http {{
        access_log access.log;
        default_type application/octet-stream;
        keepalive_requests 1000000000;
        tcp_nodelay on;{temporary}{block}
    }}"""


@contextmanager
def _nginx(config: str, *, workers: int, core: int | None, ports: list[int]) -> Iterator[int]:
    # The module path of the build: a relative one would be looked for under our own prefix.
    modules = re.search(r"--modules-path=(\S+)", _build("-V"))
    rtmp_module = Path(modules[1] if modules else "modules") / "ngx_rtmp_module.so"
    load = f"load_module {rtmp_module};" if "rtmp {" in config else ""
    if load and not rtmp_module.exists():
        raise BenchError(f"{rtmp_module} is not installed")
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not read our files
    with scratch_folder() as prefix:
        file = prefix / "nginx.conf"
        file.write_text(f"""
    {load}
    {user}
    daemon off;
    pid nginx.pid;
    error_log error.log warn;
    worker_processes {workers};
    worker_rlimit_nofile {raise_open_files()};
    events {{ worker_connections {WORKER_CONNECTIONS}; }}
    {config}
    """)
        command = [_binary(), "-p", str(prefix), "-c", str(file), "-e", str(prefix / "error.log")]
        with process(
            command,
            log=prefix / "output.log",
            ready=lambda: all(accepts(port) for port in ports),
            core=core,
        ) as pid:
            yield pid


def _binary() -> str:
    # Debian keeps it in /usr/sbin, which is not on every user's PATH.
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BenchError("nginx is not installed")
    return program


def _build(flag: str) -> str:
    return subprocess.run([_binary(), flag], capture_output=True, text=True, check=True).stderr
