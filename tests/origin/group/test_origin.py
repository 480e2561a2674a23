"""Origin groups over scripted servers: the member that is used, and the response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import Origin, OriginRequest, OriginResponse, Upstream, Version
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.group.breaker import FAILURES_MAX, BreakerState
from streamedge.origin.group.origin import Member, OriginGroup
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.objects import ObjectUpstream, RequestedObject
from streamedge.origin.s3.origin import S3Origin
from streamedge.spans import Span
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin, read_all

FAILOVER: frozenset[int | str] = frozenset({500, 502, 503, 504, "connect", "timeout"})
FILM = Pattern(300_000, seed=3)
FILM_VERSION = Version('"v1"', FILM.size_bytes, 1_700_000_000)


@dataclass(slots=True)
class Site:
    """A group of two servers."""

    first: ScriptedOrigin
    second: ScriptedOrigin
    group: OriginGroup
    members: list[Member]
    counts: Counts
    log: Log
    log_file: Path

    @property
    def request_counts(self) -> tuple[int, int]:
        """The number of requests that each server received."""
        return len(self.first.requests), len(self.second.requests)

    def events(self) -> list[tuple[str, str, str]]:
        self.log.flush()
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [(line["event"], line["group"], line["origin"]) for line in lines]

    def counted(self, counter: Counter) -> list[int]:
        return [self.counts.gathered(counter, member.name) for member in self.members]


@asynccontextmanager
async def grouping(
    folder: Path, failover: Iterable[int | str] = FAILOVER, read_timeout_s: float = 15.0
) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        servers, members = [], []
        for name in ("first", "second"):
            server = await stack.enter_async_context(ScriptedOrigin())
            server.put("film.mp4", FILM, etag='"v1"')
            origin = HttpOrigin(server.url, read_timeout_s=read_timeout_s)
            stack.push_async_callback(origin.close)
            servers.append(server)
            members.append(Member(name, origin, origin))
        log_file = folder / "log"
        log, counts = open_log(str(log_file), "test"), Counts()
        stack.callback(log.close)
        group = OriginGroup("both", members, frozenset(failover), log, counts)
        yield Site(servers[0], servers[1], group, members, counts, log, log_file)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with grouping(tmp_path) as site:
        yield site


async def send(upstream: Upstream, method: str = "GET") -> tuple[int, bytes]:
    response = await upstream.send(OriginRequest(method, "film.mp4"))
    return response.status, await body_of(response)


async def body_of(response: OriginResponse) -> bytes:
    try:
        return b"".join([piece async for piece in response.body()])
    finally:
        response.close()


async def failure_of(origin: Origin, span: Span | None = None, **more: Version) -> OriginError:
    with pytest.raises(OriginError) as caught:
        await read_all(await origin.read("film.mp4", span, **more))
    return caught.value


WHOLE = FILM.read(Span(0, FILM.size_bytes))


# --- requests ---------------------------------------------------------------------------------


async def test_first_member_is_used(site: Site) -> None:
    assert await send(site.group) == (200, WHOLE)
    assert site.request_counts == (1, 0)
    assert site.counted(Counter.FAILOVERS) == [0, 0]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_listed_status_fails_over(site: Site, method: str, status: int) -> None:
    site.first.script(Reply(status=status, body=b"no"))
    site.second.script(Reply(status=200, body=b"" if method == "HEAD" else b"second"))
    assert await send(site.group, method) == (200, b"" if method == "HEAD" else b"second")
    assert site.request_counts == (1, 1)
    assert site.counted(Counter.FAILOVERS) == [1, 0]


async def test_body_of_a_failed_over_response_is_dropped(site: Site) -> None:
    site.first.script(Reply(status=503, body=b"long", stall_at=2))
    assert await send(site.group) == (200, WHOLE)
    await site.first.until(lambda: not site.first.connections_open)


@pytest.mark.parametrize("status", [301, 400, 403, 404, 416, 429, 501])
async def test_unlisted_status_does_not_fail_over(site: Site, status: int) -> None:
    site.first.script(Reply(status=status, body=b"no"))
    assert await send(site.group) == (status, b"no")
    assert site.request_counts == (1, 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_writes_go_to_the_first_member_only(site: Site, method: str) -> None:
    for _again in range(FAILURES_MAX + 1):
        site.first.script(Reply(status=503))
        assert (await send(site.group, method))[0] == 503
    await site.first.refuse()
    with pytest.raises(OriginError) as caught:
        await send(site.group, method)
    assert caught.value.failure is OriginFailure.REFUSED
    assert site.request_counts == (FAILURES_MAX + 1, 0)


async def test_request_with_a_body_does_not_fail_over(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"query"

    site.first.script(Reply(status=503))
    request = OriginRequest("OPTIONS", "film.mp4", body=pieces())
    response = await site.group.send(request)
    assert response.status == 503
    response.close()
    assert site.request_counts == (1, 0)


async def test_refused_connection_fails_over(site: Site) -> None:
    await site.first.refuse()
    assert await send(site.group) == (200, WHOLE)
    assert await read_all(await site.group.read("film.mp4")) == WHOLE
    assert (await site.group.head("film.mp4")).version == FILM_VERSION


async def test_lost_connection_fails_over(site: Site) -> None:
    site.first.script(Reply(raw=b""))
    assert await send(site.group) == (200, WHOLE)
    assert site.request_counts == (1, 1)


async def test_read_timeout_fails_over(tmp_path: Path) -> None:
    async with grouping(tmp_path, read_timeout_s=0.1) as site:
        site.first.script(Reply(silent=True))
        assert await send(site.group) == (200, WHOLE)


async def test_invalid_response_counts_as_502(tmp_path: Path) -> None:
    async with grouping(tmp_path, [502]) as site:
        site.first.script(Reply(raw=b"hello\r\n\r\n"))
        assert await send(site.group) == (200, WHOLE)


async def test_only_listed_failures_fail_over(tmp_path: Path) -> None:
    async with grouping(tmp_path, [404], read_timeout_s=0.1) as site:
        site.first.remove("film.mp4")
        assert await send(site.group) == (200, WHOLE)
        site.first.script(Reply(silent=True))
        site.first.script(Reply(status=503))
        with pytest.raises(OriginError) as caught:
            await send(site.group)
        assert caught.value.failure is OriginFailure.TIMEOUT
        assert (await send(site.group))[0] == 503
        await site.first.refuse()
        with pytest.raises(OriginError) as caught:
            await send(site.group)
        assert caught.value.failure is OriginFailure.REFUSED
        assert len(site.second.requests) == 1


async def test_result_of_the_last_member_is_returned(site: Site) -> None:
    site.first.script(Reply(status=502, body=b"first"))
    site.second.script(Reply(status=503, body=b"second"))
    assert await send(site.group) == (503, b"second")
    site.first.script(Reply(status=502))
    await site.second.refuse()
    with pytest.raises(OriginError) as caught:
        await send(site.group)
    assert caught.value.failure is OriginFailure.REFUSED


# --- breakers ---------------------------------------------------------------------------------


class Clock:
    """The clock of the breakers."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streamedge.origin.group.origin.monotonic_s", clock)
    return clock


async def break_first(site: Site) -> None:
    site.first.script(Reply(status=503), times=FAILURES_MAX)
    for _again in range(FAILURES_MAX):
        assert await send(site.group) == (200, WHOLE)
    assert site.members[0].breaker.state is BreakerState.OPEN


async def test_open_breaker_skips_the_member(site: Site, clock: Clock) -> None:
    await break_first(site)
    for _again in range(5):
        assert await send(site.group) == (200, WHOLE)
    assert site.request_counts == (FAILURES_MAX, FAILURES_MAX + 5)
    assert site.counted(Counter.FAILOVERS) == [FAILURES_MAX + 5, 0]
    assert site.counted(Counter.OUTAGES) == [1, 0]
    assert site.events() == [("origin_down", "both", "first")]


async def test_recovered_member_is_used_again(site: Site, clock: Clock) -> None:
    await break_first(site)
    clock.now_s += 1
    site.first.script(Reply(status=503))
    assert await send(site.group) == (200, WHOLE)
    assert site.request_counts == (FAILURES_MAX + 1, FAILURES_MAX + 1)
    clock.now_s += 1.9
    assert await send(site.group) == (200, WHOLE)
    assert len(site.first.requests) == FAILURES_MAX + 1
    clock.now_s += 0.1
    second = len(site.second.requests)
    assert await send(site.group) == (200, WHOLE)
    assert await send(site.group) == (200, WHOLE)
    assert len(site.second.requests) == second
    assert site.members[0].breaker.state is BreakerState.CLOSED
    assert site.events() == [("origin_down", "both", "first"), ("origin_up", "both", "first")]
    assert site.counted(Counter.OUTAGES) == [1, 0]


async def test_only_one_request_is_the_trial(site: Site, clock: Clock) -> None:
    await break_first(site)
    clock.now_s += 1
    site.first.hold_responses()
    trial = asyncio.create_task(send(site.group))
    await site.first.wait_for_requests(FAILURES_MAX + 1)
    assert await send(site.group) == (200, WHOLE)  # of the second member
    assert len(site.first.requests) == FAILURES_MAX + 1
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    site.first.release_responses()
    second = len(site.second.requests)
    assert await send(site.group) == (200, WHOLE)  # an abandoned trial does not block the next one
    assert len(site.second.requests) == second


async def test_all_members_are_tried_when_all_breakers_are_open(site: Site, clock: Clock) -> None:
    site.first.script(Reply(status=503), times=FAILURES_MAX)
    site.second.script(Reply(status=503), times=FAILURES_MAX)
    for _again in range(FAILURES_MAX):
        assert (await send(site.group))[0] == 503
    assert {member.breaker.state for member in site.members} == {BreakerState.OPEN}
    assert await send(site.group) == (200, WHOLE)
    assert site.request_counts == (FAILURES_MAX + 1, FAILURES_MAX)


@pytest.mark.parametrize("status", [403, 404])
async def test_status_about_the_object_does_not_open_the_breaker(
    tmp_path: Path, status: int
) -> None:
    async with grouping(tmp_path, [403, 404]) as site:
        site.first.script(Reply(status=status), times=2 * FAILURES_MAX)
        for _again in range(2 * FAILURES_MAX):
            assert await send(site.group) == (200, WHOLE)
        assert site.members[0].breaker.state is BreakerState.CLOSED
        assert site.request_counts == (2 * FAILURES_MAX, 2 * FAILURES_MAX)


# --- objects ----------------------------------------------------------------------------------


async def test_reads_fail_over(site: Site) -> None:
    site.first.script(Reply(status=500), times=2)
    assert (await site.group.head("film.mp4")).version == FILM_VERSION
    assert await read_all(await site.group.read("film.mp4", Span(5, 10))) == WHOLE[5:10]
    assert await site.group.read("film.mp4", if_none_match=FILM_VERSION) is None
    assert site.request_counts == (3, 2)


async def test_not_found_fails_over_only_if_listed(site: Site, tmp_path: Path) -> None:
    site.first.remove("film.mp4")
    assert (await failure_of(site.group)).failure is OriginFailure.NOT_FOUND
    assert site.request_counts == (1, 0)
    (tmp_path / "other").mkdir()
    async with grouping(tmp_path / "other", [404]) as other:
        other.first.remove("film.mp4")
        assert await read_all(await other.group.read("film.mp4")) == WHOLE


async def test_read_of_a_version_fails_over_after_a_changed_object(site: Site) -> None:
    site.first.put("film.mp4", FILM, etag='"v2"')
    read = await site.group.read("film.mp4", Span(7, 9), if_match=FILM_VERSION)
    assert await read_all(read) == WHOLE[7:9]
    site.first.script(Reply(ignore_conditions=True))
    read = await site.group.read("film.mp4", Span(7, 9), if_match=FILM_VERSION)
    assert await read_all(read) == WHOLE[7:9]
    site.second.put("film.mp4", FILM, etag='"v3"')
    error = await failure_of(site.group, Span(7, 9), if_match=FILM_VERSION)
    assert error.failure is OriginFailure.CHANGED
    assert site.members[0].breaker.failures == 0


@pytest.mark.parametrize("status", [403, 404, 416, 418])
async def test_read_of_a_version_tries_all_members(site: Site, status: int) -> None:
    site.first.script(Reply(status=status))
    read = await site.group.read("film.mp4", Span(7, 9), if_match=FILM_VERSION)
    assert await read_all(read) == WHOLE[7:9]


async def break_off(site: Site, origin: Origin) -> None:
    site.first.script(Reply(cut_at=1000))
    assert (await failure_of(origin)).failure is OriginFailure.BROKEN


async def test_truncated_body_is_resumed_at_another_member(site: Site) -> None:
    await break_off(site, site.group)
    rest = Span(1000, FILM.size_bytes)
    assert (
        await read_all(await site.group.read("film.mp4", rest, if_match=FILM_VERSION))
        == (WHOLE[1000:])
    )
    assert site.request_counts == (1, 1)
    assert site.second.requests[0].headers["if-match"] == '"v1"'
    assert await send(site.group) == (200, WHOLE)  # new reads go to the first member again
    assert site.request_counts == (2, 1)


async def test_truncated_body_is_resumed_at_the_same_member_if_no_other_has_the_version(
    site: Site,
) -> None:
    site.second.put("film.mp4", FILM, etag='"v2"')
    await break_off(site, site.group)
    rest = Span(1000, FILM.size_bytes)
    assert (
        await read_all(await site.group.read("film.mp4", rest, if_match=FILM_VERSION))
        == (WHOLE[1000:])
    )
    assert site.request_counts == (
        2,
        2,
    )  # a 412 is retried without If-Match


@pytest.mark.parametrize("etag", ['"v1"', ""])
@pytest.mark.parametrize("honours", [True, False])
async def test_requested_object_resumes_a_truncated_body(
    site: Site, etag: str, honours: bool
) -> None:
    """Requests of sites go through ``send``, with conditions among their fields."""
    version = Version(etag, FILM.size_bytes, 1_700_000_000)
    for server in (site.first, site.second):
        server.put("film.mp4", FILM, etag=etag)
    film = RequestedObject("site", site.group, OriginRequest("GET", "film.mp4"))
    await break_off(site, film)
    rest = Span(1000, FILM.size_bytes)
    assert await read_all(await film.read("film.mp4", rest, if_match=version)) == WHOLE[1000:]
    assert site.request_counts == (1, 1)
    await break_off(site, film)
    other = Pattern(FILM.size_bytes, seed=4)
    site.second.put("film.mp4", other, etag=etag and '"v2"', last_modified_s=1_800_000_000)
    site.second.script(Reply(ignore_conditions=not honours))
    assert await read_all(await film.read("film.mp4", rest, if_match=version)) == WHOLE[1000:]
    assert site.request_counts == (3, 2)


async def test_response_is_passed_on_unchanged(site: Site) -> None:
    trailers = (("X-Sum", "1"),)
    site.first.script(Reply(status=200, body=b"", headers=(("X-A", "b"),)))
    response = await site.group.send(OriginRequest("GET", "film.mp4"))
    assert (response.size_bytes, ("X-A", "b") in response.fields) == (0, True)
    assert await body_of(response) == b""
    site.first.script(Reply(chunked=True, trailers=trailers))
    response = await site.group.send(OriginRequest("GET", "film.mp4"))
    assert response.size_bytes is None
    assert await body_of(response) == WHOLE
    assert response.trailers == list(trailers)


async def test_upgrade_passes_through(site: Site) -> None:
    site.first.script(Reply(echoes=True))
    fields = (("connection", "upgrade"), ("upgrade", "websocket"))
    response = await site.group.send(OriginRequest("GET", "film.mp4", fields=fields))
    unread, duplex = response.upgrade()
    await duplex.write(b"hello")
    assert unread + await duplex.read() == b"hello"
    duplex.close()


# --- buckets and folders ----------------------------------------------------------------------


async def test_group_of_a_bucket_and_a_folder_fails_over(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    async with ScriptedOrigin() as server:
        bucket = S3Origin("videos", endpoint=server.url, anonymous=True)
        folder = DirectoryOrigin(tmp_path)
        members = [
            Member("bucket", bucket, ObjectUpstream(bucket)),
            Member("folder", folder, ObjectUpstream(folder)),
        ]
        log = open_log(str(tmp_path / "log"), "test")
        group = OriginGroup("both", members, frozenset({404, 503}), log, Counts())
        server.script(Reply(status=500))  # is not listed
        assert (await failure_of(group)).failure is OriginFailure.UNAVAILABLE
        for status in (404, 503):
            server.script(Reply(status=status), times=3)
            assert (await group.head("film.mp4")).version.size_bytes == 4
            assert await read_all(await group.read("film.mp4")) == b"film"
            assert await send(group) == (200, b"film")
        assert len(server.requests) == 7
        assert not members[0].breaker.admits(0)
        await bucket.close()
        log.close()
