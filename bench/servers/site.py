"""A web site on an nginx origin, and two servers in front of it: StreamEdge and nginx.

Its files are made for one run. Both servers have one worker on the same core and an access log; the
origin runs on the load generator's core.
"""

from __future__ import annotations

import gzip
import http.client
import random
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import LOAD_CORE, SERVER_CORE
from bench.servers.certificate import make_pair
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.peers import SITE, nginx_origin, nginx_site
from bench.servers.server import LOOPBACK, BenchError, Failure, Server, Start, scratch_folder

PAGE = "page.html"
PHOTO = "photo.jpg"
ARCHIVE = "archive.bin"
STYLE = "style.css"
DISC = "disc.bin"
PAGE_BYTES = 1 << 10
PHOTO_BYTES = 256 << 10
ARCHIVE_BYTES = 8 << 20
STYLE_BYTES = 24 << 10
DISC_BYTES = 1_000_000_000
TIMEOUT_S = 30.0

# What nginx_site does for the same paths.
WEB = """
[[distributions.behaviors]]
path = "style.css"
compress = true

[[distributions.behaviors]]
path = "secure/*"
viewer_protocol = "redirect-to-https"

[[distributions.error_pages]]
status = 403
path = "/errors/403.html"
ttl = "1d"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """``servers`` are StreamEdge and nginx; ``trusted`` is their certificate."""

    origin: Server
    servers: Mapping[str, Server | Failure]
    trusted: Path


@dataclass(frozen=True, slots=True)
class Probe:
    """The status, fields (names in lower case) and body length of one response."""

    status: int
    fields: Mapping[str, str]
    body_bytes: int


@contextmanager
def site(*, limits: str = "") -> Iterator[Site]:
    """Runs the origin and both servers. ``limits``: TOML for StreamEdge's ``[limits]``."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        make_files(folder)
        pair = make_pair(stack.enter_context(scratch_folder()))
        origin = stack.enter_context(nginx_origin(folder, core=LOAD_CORE))
        starts: dict[str, Start] = {
            STREAMEDGE: lambda: streamedge(
                origin.http_port, core=SERVER_CORE, pair=pair, web=WEB, limits=limits
            ),
            SITE: lambda: nginx_site(folder, origin.http_port, pair, core=SERVER_CORE),
        }
        servers: dict[str, Server | Failure] = {}
        for name, start in starts.items():
            try:
                servers[name] = stack.enter_context(start())
            except BenchError as error:
                servers[name] = Failure(str(error))
        yield Site(origin, servers, pair.certificate)


def make_files(folder: Path) -> None:
    """The site's files: of bytes that do not compress, except the page and the style sheet."""
    chosen = random.Random(2)
    folder.chmod(0o755)
    (folder / "errors").mkdir()
    (folder / "errors/403.html").write_text(_text(chosen, PAGE_BYTES))
    (folder / PAGE).write_text(_text(chosen, PAGE_BYTES))
    (folder / PHOTO).write_bytes(chosen.randbytes(PHOTO_BYTES))
    (folder / ARCHIVE).write_bytes(chosen.randbytes(ARCHIVE_BYTES))
    style = _text(chosen, STYLE_BYTES).encode()
    (folder / STYLE).write_bytes(style)
    (folder / f"{STYLE}.gz").write_bytes(gzip.compress(style, 6))
    with (folder / DISC).open("wb") as disc:
        disc.truncate(DISC_BYTES)


def probe(
    server: Server, method: str, path: str, fields: Mapping[str, str], *, secure: bool = False
) -> Probe:
    """Sends one request over a new connection. Raises BenchError when there is no response."""
    connection: http.client.HTTPConnection
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            LOOPBACK, server.https_port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(LOOPBACK, server.http_port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=dict(fields))
        response = connection.getresponse()
        body_bytes = len(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"no response to {method} {path}: {error!r}") from error
    finally:
        connection.close()
    received = {name.lower(): value for name, value in response.getheaders()}
    return Probe(response.status, received, body_bytes)


def _text(chosen: random.Random, size_bytes: int) -> str:
    """Words that compress as HTML and CSS do."""
    words = ["color", "margin", "padding", "display", "border", "block", "auto", "font-size", "0"]
    text = " ".join(f"{chosen.choice(words)}:{chosen.randrange(99)};" for _ in range(size_bytes))
    return text[:size_bytes]
