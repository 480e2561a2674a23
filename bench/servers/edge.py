"""Starts StreamEdge as an operator does: with a config file and ``serve``.

It imports nothing from the package and uses only the config file, ``/healthz`` and SIGTERM.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.servers.certificate import Pair
from bench.servers.peers import APPLICATION
from bench.servers.server import LOOPBACK, Server, free_port, process, scratch_folder

STREAMEDGE = "StreamEdge"
HEALTH_TIMEOUT_S = 2.0


@contextmanager
def streamedge(
    origin_port: int,
    *,
    workers: int = 1,
    core: int | None,
    cache: Path | None = None,
    waits: bool = True,
    pair: Pair | None = None,
    signer: tuple[str, str] | None = None,
    web: str = "",
    limits: str = "",
    fleet: str = "",
    listen: str = "",
    rtmp: str = "",
    tables: str = "",
) -> Iterator[Server]:
    """An edge in front of the origin, with a web and an RTMP distribution.

    ``cache``: a folder that outlives the edge; None: a new one. ``waits``: until /healthz returns
    200. ``pair``: also serves HTTPS. ``signer``: id and PEM of the key that web viewers' URLs must
    be signed with. ``web``, ``limits``, ``listen``: TOML for the web distribution, for ``[limits]``
    and for ``[listen]``; ``rtmp``: for the RTMP distribution; ``tables``: further tables.
    ``fleet``: the table ``[fleet]``; then /healthz does not wait for the engine.
    """
    http_port, rtmp_port, admin_port = free_port(), free_port(), free_port()
    https_port, https, certificates = 0, "", ""
    if pair is not None:
        https_port = free_port()
        https = f'https = ["{LOOPBACK}:{https_port}"]'
        certificates = f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    keys, trusted = "", ""
    if signer is not None:
        key_id, pem = signer
        keys = f"""
[public_keys.{key_id}]
pem = '''{pem}'''
[key_groups.bench]
keys = ["{key_id}"]
"""
        trusted = 'trusted_key_groups = ["bench"]'
    with scratch_folder() as folder:
        config = folder / "config.toml"
        config.write_text(f"""
[edge]
name = "bench"
cache = "{cache or folder / "cache"}"
cache_size = "40GiB"
workers = {workers}

[listen]
http = ["{LOOPBACK}:{http_port}"]
{https}
rtmp = ["{LOOPBACK}:{rtmp_port}"]
admin = "{LOOPBACK}:{admin_port}"
{listen}

[limits]
{limits}

{certificates}
{keys}
{fleet}
{tables}
[origins.bench]
type = "http"
url = "http://{LOOPBACK}:{origin_port}"

[[distributions]]
id = "EWEB"
type = "web"
origin = "bench"
{trusted}
{web}

[[distributions]]
id = "ESTREAM"
type = "rtmp"
application = ["{APPLICATION}"]
origin = "bench"
{rtmp}
""")
        with process(
            [sys.executable, "-m", "streamedge", "serve", "--config", str(config)],
            log=folder / "output.log",
            ready=lambda: not waits or _healthy(admin_port),
            core=core,
        ) as pid:
            yield Server(STREAMEDGE, pid, http_port, rtmp_port, https_port, admin_port)


def _healthy(admin_port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, admin_port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
