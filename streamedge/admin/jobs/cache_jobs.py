"""The jobs on the cache: ``verify`` checks what is cached, ``warm`` fetches what should be.

verify: {"kind": "verify", "bytes_per_s": 67108864}
    Reads every cached byte once and compares CRCs. A damaged file is removed.
warm: {"kind": "warm", "paths": ["/film.mp4", …], "host": "media.example.com", "requests_per_s": 10}
    Requests each path from this edge, as a viewer does, and drops the bodies.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from streamedge.admin.jobs.jobs import Job, JobWork, RateLimiter, number_member
from streamedge.cache.storage.inspection import CacheInspector
from streamedge.cache.storage.maintenance import Verification, verify
from streamedge.config.schema.config import Config
from streamedge.config.schema.units import format_address, to_connect_to
from streamedge.errors import ConfigError, OriginError
from streamedge.ops.log import Log
from streamedge.origin.http_client.client import Client

VERIFY_BYTES_PER_S = 64 << 20
RATE_MAX = 1e12
WARM_PATHS_MAX = 50_000  # as many as a sitemap may have (sitemaps.org)
PATH_CHARACTERS_MAX = 8192
WARM_REQUESTS_PER_S = 10
WARM_AT_A_TIME = 4
WARM_TIMEOUT_S = 60.0  # of silence, or for a connection
_REDIRECT, _ERROR = 300, 400


def verify_kind(root: Path, log: Log) -> Callable[[Mapping[str, Any]], JobWork]:
    """Makes ``verify`` jobs of the cache folder ``root``."""
    inspector = CacheInspector(root)

    def kind(members: Mapping[str, Any]) -> JobWork:
        rate = number_member(members, "bytes_per_s", VERIFY_BYTES_PER_S, RATE_MAX)

        async def work(job: Job) -> None:
            limiter = RateLimiter(rate)
            digests = await asyncio.to_thread(lambda: list(inspector.ids()))
            job.total = len(digests)
            for digest in digests:
                files = await asyncio.to_thread(_files_of, root, inspector, digest)
                while (result := await asyncio.to_thread(next, files, None)) is not None:
                    job.bytes += result.checked_bytes
                    for path in result.damaged:
                        job.add_problem(f"{path} was damaged and is removed")
                        log.event("extent_dropped", path=path, reason="damaged bytes")
                    await limiter.wait(result.checked_bytes)
                job.done += 1

        return work

    return kind


def _files_of(root: Path, inspector: CacheInspector, digest: str) -> Iterator[Verification]:
    """Checks the files of an object; none if it has gone."""
    cached = inspector.find(digest)
    return iter(()) if cached is None else verify(root, cached)


def warm_kind(edge_url: Callable[[], str]) -> Callable[[Mapping[str, Any]], JobWork]:
    """Makes ``warm`` jobs. ``edge_url``: this edge for viewers, such as http://127.0.0.1:8080."""

    def kind(members: Mapping[str, Any]) -> JobWork:
        paths, host = _paths(members), members.get("host", "")
        if not isinstance(host, str) or not host.isascii() or not host.isprintable():
            raise HTTPException(400, "host is the name of a host")
        rate = number_member(members, "requests_per_s", WARM_REQUESTS_PER_S, RATE_MAX)

        async def work(job: Job) -> None:
            job.total = len(paths)
            base, limiter, rest = edge_url(), RateLimiter(rate), iter(paths)
            client = Client(
                connect_timeout_s=WARM_TIMEOUT_S,
                read_timeout_s=WARM_TIMEOUT_S,
                connections_max=WARM_AT_A_TIME,
                tls=_loopback_tls,
            )

            async def request_paths() -> None:
                for path in rest:
                    await _warm(client, base, path, host, job)
                    await limiter.wait(1)

            try:
                async with asyncio.TaskGroup() as group:
                    for _each in range(WARM_AT_A_TIME):
                        group.create_task(request_paths())
            finally:
                await client.close()

        return work

    return kind


async def _warm(client: Client, base: str, path: str, host: str, job: Job) -> None:
    """Requests one path and reads the body; a failure is counted."""
    fields = [("User-Agent", "StreamEdge warm")]
    if host:
        fields.append(("Host", host))
    try:
        response = await client.send(path, "GET", base + path, fields)
        try:
            async for piece in response.body():
                job.bytes += len(piece)
        finally:
            response.close()
    except (OriginError, ValueError) as exc:
        job.add_problem(f"{path}: {exc}")
    else:
        if response.status >= _ERROR:
            job.add_problem(f"{path}: status {response.status}")
        elif response.status >= _REDIRECT:
            job.add_problem(f"{path}: a redirect, status {response.status}")
    job.done += 1


def edge_url(config: Config) -> str:
    """This edge's own address for viewers. Raises ConfigError if it has none for the edge itself.

    An address on which each connection begins with a PROXY header is not one.
    """
    listen = config.listen
    for scheme, addresses in (("http", (*listen.http, *listen.mixed)), ("https", listen.https)):
        for address in addresses:
            if address not in listen.proxy_protocol:
                return f"{scheme}://{format_address(to_connect_to(address))}"
    raise ConfigError(("listen: no address of http, mixed or https takes plain connections",))


def _paths(members: Mapping[str, Any]) -> list[str]:
    """The paths of a request, each once. Raises HTTPException 400."""
    paths = members.get("paths")
    if not isinstance(paths, list) or not paths:
        raise HTTPException(400, "paths is a list of paths")
    if len(paths) > WARM_PATHS_MAX:
        raise HTTPException(400, f"paths has more than {WARM_PATHS_MAX} paths")
    for path in paths:
        is_path = isinstance(path, str) and path.startswith("/") and len(path) < PATH_CHARACTERS_MAX
        if not is_path or not path.isascii() or not path.isprintable() or " " in path:
            raise HTTPException(
                400, f"{path!a} is not a path: it begins with /, and is percent-encoded"
            )
    return list(dict.fromkeys(paths))


def _loopback_tls() -> ssl.SSLContext:
    """The edge calls itself: its certificate is for names that are not its address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
