"""No request joins a lookup that has ended, and none waits for ever.

The property drives both entry points with requests of every kind, which come, end and disconnect in
any order, and gives the event loop a fixed number of iterations to end them all.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.lookup.in_flight import ROUNDS_MAX, CacheStatus, InFlight, Lookup
from streamedge.cache.lookup.outcome import Passed, Stored
from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import WHOLE, CacheRequest, object_request
from streamedge.cache.reader import Reader
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import Store, prepare_folder
from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin import Duplex, Fields, OriginRequest, OriginResponse
from streamedge.origin.objects import RequestedObject
from streamedge.spans import Span

TURNS_MAX = 400  # iterations of the event loop in which all requests must end at last
HANG_S = 5

RESPONSES = {
    "stored": (200, [("cache-control", "max-age=60"), ("etag", '"1"')]),
    "stale": (200, [("cache-control", "max-age=0"), ("etag", '"1"')]),
    "outdated": (200, [("cache-control", "max-age=0, stale-while-revalidate=60"), ("etag", '"1"')]),
    "private": (200, [("cache-control", "private")]),
    "varies": (200, [("cache-control", "max-age=60"), ("vary", "accept"), ("etag", '"1"')]),
    "missing": (404, []),
    "forbidden": (403, []),
    "failing": (503, [("cache-control", "no-store")]),
}


class Response:
    """A response with a small body."""

    def __init__(self, status: int, fields: Fields, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.size_bytes: int | None = len(body)
        self.trailers: Fields = []
        self._body = body

    async def body(self) -> AsyncIterator[bytes]:
        if self._body:
            yield self._body

    def take_received_body(self) -> bytes | None:
        return None

    def upgrade(self) -> tuple[bytes, Duplex]:
        raise AssertionError

    def close(self) -> None:
        pass


class HeldOrigin:
    """An upstream whose requests wait for ``respond``, or until all responses are released."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[str]] = []
        self.always = ""
        self.requests: list[OriginRequest] = []

    async def send(self, origin_request: OriginRequest) -> OriginResponse:
        self.requests.append(origin_request)
        kind = self.always
        if not kind:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            kind = await future
        if kind == "broken":
            raise OriginError(OriginFailure.REFUSED, "no connection", retried=True)
        status, fields = RESPONSES[kind]
        if status == 200 and ("if-none-match", '"1"') in origin_request.fields:
            return Response(304, fields, b"")
        if origin_request.method == "HEAD":
            return Response(status, [*fields, ("content-length", "4")], b"")
        return Response(status, list(fields), b"body" if status == 200 else b"")

    def respond(self, which: int, kind: str) -> None:
        waiting = [future for future in self.waiting if not future.done()]
        if waiting:
            waiting[which % len(waiting)].set_result(kind)

    def release(self, kind: str) -> None:
        self.always = kind
        for future in self.waiting:
            if not future.done():
                future.set_result(kind)


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends a loop that never gives the event loop a turn: no timeout within it would come."""

    def hung(_signal: int, _frame: object) -> None:
        raise AssertionError(f"the event loop got no turn for {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("lookups")
    prepare_folder(folder)
    return Store(folder, 0, open_log(os.devnull, "worker-0"))


def request(origin: HeldOrigin, kind: str, key: str) -> CacheRequest:
    origin_request = OriginRequest("HEAD" if kind == "head" else "GET", "film")
    fields = {"if-none-match": '"1"'} if kind == "conditional" else {}
    source = RequestedObject("main", origin, OriginRequest("GET", "film"))
    asset = Asset(key, "film", source, "main", TtlRules())
    if kind == "open":
        return replace(object_request(asset, Span(0, 10)), upstream=origin)
    want = WHOLE if kind == "get" else Span(0, 0)
    applies = kind == "reload"
    if applies:
        fields = {"cache-control": "no-cache"}
    return CacheRequest(
        asset, origin, origin_request, fields, want, applies_request_directives=applies
    )


async def view(responses: ResponseCache, request: CacheRequest) -> None:
    try:
        outcome = await responses.respond(request)
    except OriginError:
        return
    if isinstance(outcome, Stored):
        outcome.reader.close()
    elif isinstance(outcome, Passed):
        outcome.response.close()


KINDS = st.sampled_from(["get", "head", "conditional", "reload", "open"])
ACTIONS = st.one_of(
    st.tuples(st.just("come"), KINDS),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("respond"), st.integers(0, 20), st.sampled_from([*RESPONSES, "broken"])),
    st.tuples(st.just("write")),
    st.tuples(st.just("turn"), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=40), end=st.sampled_from([*RESPONSES, "broken"]))
def test_every_request_ends_within_a_number_of_loop_iterations(
    store: Store, actions: list[tuple[object, ...]], end: str
) -> None:
    async def scenario() -> None:
        cache = Cache(store, open_log(os.devnull, "w"), Counts(), open_extents=64, retries=1)
        responses, origin = ResponseCache(cache), HeldOrigin()
        key = f"site\nfilm {next(NUMBERS)}"
        viewers: list[asyncio.Task[None]] = []
        for action in actions:
            match action:
                case ("come", str(kind)):
                    viewers.append(asyncio.create_task(view(responses, request(origin, kind, key))))
                case ("leave", int(which)):
                    if viewers:
                        viewers[which % len(viewers)].cancel()
                case ("respond", int(which), str(kind)):
                    origin.respond(which, kind)
                case ("write",):
                    cache.refuse_older(key)
                case ("turn", int(turns)):
                    for _turn in range(turns):
                        await asyncio.sleep(0)
        origin.release(end)
        for _turn in range(TURNS_MAX):
            if all(viewer.done() for viewer in viewers):
                break
            await asyncio.sleep(0)
        assert all(viewer.done() for viewer in viewers)
        assert [each for each in viewers if not each.cancelled() and each.exception()] == []
        # Each sends its own request once it has waited for ROUNDS_MAX others; a HEAD or a 304 may
        # need a second request.
        assert len(origin.requests) <= 2 * len(viewers) + ROUNDS_MAX
        await cache.close()
        assert len(cache.in_flight) == 0

    with no_hang():
        asyncio.run(scenario(), debug=True)


NUMBERS = count()


async def test_ended_lookup_is_not_joined_by_the_requests_it_wakes() -> None:
    in_flight, lookup = InFlight(), Lookup(CacheStatus())
    in_flight.begin("key", lookup)
    seen: list[object] = []

    async def wait() -> None:
        await lookup.ended()
        seen.append(in_flight.find("key"))

    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    assert in_flight.find("key") is lookup
    in_flight.end("key", lookup)
    await asyncio.gather(*waiting)
    assert seen == [None, None]


def test_lookup_that_ends_does_not_remove_its_successor() -> None:
    in_flight, lookups = InFlight(), [Lookup(CacheStatus()), Lookup(CacheStatus())]
    in_flight.begin("key", lookups[0])
    in_flight.end("key", lookups[0])
    in_flight.begin("key", lookups[1])
    in_flight.end("key", lookups[0])
    assert in_flight.find("key") is lookups[1]


@pytest.fixture
async def worker(cache_root: Path) -> AsyncIterator[Cache]:
    log = open_log(os.devnull, "worker-0")
    cache = Cache(Store(cache_root, 0, log), log, Counts(), open_extents=64, retries=1)
    yield cache
    await cache.close()


@pytest.mark.parametrize("turns", [0, 1])
async def test_cancelled_validation_leaves_the_table(worker: Cache, turns: int) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    origin.release("outdated")
    for _stored_and_stale in range(2):
        await view(responses, request(origin, "get", "site\nfilm"))
    assert len(worker.in_flight) == 1
    for _turn in range(turns):
        await asyncio.sleep(0)
    await worker.close()
    await asyncio.sleep(0)
    assert len(worker.in_flight) == 0


@pytest.mark.parametrize("kind", ["get", "open"])
async def test_requests_that_wait_for_a_cancelled_one_share_another(
    worker: Cache, kind: str
) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    first, *others = [
        asyncio.create_task(responses.respond(request(origin, kind, "site\nfilm")))
        for _ in range(4)
    ]
    for _turn in range(5):
        await asyncio.sleep(0)
    first.cancel()
    for _turn in range(5):
        await asyncio.sleep(0)
    assert len(origin.requests) == 2
    origin.release("stored")
    for outcome in await asyncio.gather(*others):
        assert isinstance(outcome, Stored)
        outcome.reader.close()
    assert len(origin.requests) == 2


@pytest.mark.parametrize("kind", ["head", "conditional", "get"])
async def test_waiters_for_an_unshared_response_send_their_requests_at_once(
    worker: Cache, kind: str
) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    viewers = [
        asyncio.create_task(view(responses, request(origin, kind, "site\nfilm"))) for _ in range(20)
    ]
    for _turn in range(5):
        await asyncio.sleep(0)
    for _wave in range(ROUNDS_MAX + 1):
        waiting = len(origin.waiting)
        for _each in range(waiting):
            origin.respond(0, "private")
        for _turn in range(10):
            await asyncio.sleep(0)
    assert all(viewer.done() for viewer in viewers)
    assert len(origin.requests) == 20


async def test_conditional_requests_for_a_cold_key_are_one_plain_request(worker: Cache) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    kinds = ["conditional"] * 10 + ["get"] * 10
    viewers = [
        asyncio.create_task(responses.respond(request(origin, kind, "site\nfilm")))
        for kind in kinds
    ]
    for _turn in range(5):
        await asyncio.sleep(0)
    origin.release("stored")
    outcomes = await asyncio.gather(*viewers)
    assert [dict(origin_request.fields) for origin_request in origin.requests] == [{}]
    for outcome in outcomes:
        assert isinstance(outcome, Stored)
        outcome.reader.close()


async def test_head_neither_delays_a_get_nor_waits_for_one(worker: Cache) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    heads = [
        asyncio.create_task(view(responses, request(origin, "head", "site\nfilm")))
        for _ in range(3)
    ]
    for _turn in range(5):
        await asyncio.sleep(0)
    getting = asyncio.create_task(responses.respond(request(origin, "get", "site\nfilm")))
    for _turn in range(5):
        await asyncio.sleep(0)
    assert [origin_request.method for origin_request in origin.requests] == ["HEAD"] * 3 + ["GET"]
    origin.waiting[3].set_result("stored")
    outcome = await getting
    assert isinstance(outcome, Stored)
    outcome.reader.close()
    origin.release("stored")
    await asyncio.gather(*heads)


@pytest.mark.parametrize(("written", "requests"), [("site\nother", 1), ("site\nfilm", 2)])
async def test_waiters_share_an_error_unless_the_object_was_written_meanwhile(
    worker: Cache, written: str, requests: int
) -> None:
    responses, origin = ResponseCache(worker), HeldOrigin()
    viewers = [
        asyncio.create_task(responses.respond(request(origin, "open", "site\nfilm")))
        for _ in range(3)
    ]
    for _turn in range(5):
        await asyncio.sleep(0)
    worker.refuse_older(written)
    origin.respond(0, "forbidden")
    for _turn in range(10):
        await asyncio.sleep(0)
    origin.release("forbidden")
    for outcome in await asyncio.gather(*viewers):
        assert isinstance(outcome, Passed)
        assert outcome.response.status == 403
    assert len(origin.requests) == requests


async def test_viewer_and_player_of_one_object_share_one_request(worker: Cache) -> None:
    for first, second in (("get", "open"), ("open", "get")):
        responses, origin = ResponseCache(worker), HeldOrigin()
        key = f"site\n{first}"
        requests = [request(origin, kind, key) for kind in (first, second)]
        viewers = [asyncio.create_task(responses.respond(each)) for each in requests]
        for _turn in range(5):
            await asyncio.sleep(0)
        origin.release("stored")
        for outcome in await asyncio.gather(*viewers):
            assert isinstance(outcome, Stored)
            reader: Reader = outcome.reader
            assert await reader.read(Span(0, 4)) == b"body"
            reader.close()
        assert len(origin.requests) == 1
