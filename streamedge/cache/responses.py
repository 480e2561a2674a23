"""The door to the cache for HTTP: a request goes in, a stored answer or one in passing comes out.

Owns the course of RFC 9111: selecting what is stored (§4.1), reusing it (§4.2), validating it
(§4.3), asking the origin, storing what it says (§3). What is decided at each step is decided by
the pure rooms beside it; bytes, versions and fills are the same as behind ``Cache.open``.

One request at a time asks the origin for a key; the others wait for its head and read along. What
turns out to be nobody else's is passed on to the one who asked, and for a while the others of that
key ask for themselves at once. A viewer's cancellation cancels no asking.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from streamedge.cache.asking import (
    Ask,
    confirmed,
    is_confirmed,
    is_contradicted,
    may_pass,
    opening,
    request_for,
    without_range,
)
from streamedge.cache.asset import Asset, Record, SentAt, Subject, stored_fields
from streamedge.cache.cache import TICK_S, Cache
from streamedge.cache.extent import EXTENT_BYTES
from streamedge.cache.fitness import decide, directives, is_refused, may_serve_stale
from streamedge.cache.open_version import OpenVersion
from streamedge.cache.plan import backoff_s
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.reuse import Reuse
from streamedge.cache.storing import is_storable
from streamedge.cache.vary import parse_vary, variant_key
from streamedge.control.in_force import Verdict
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import UNKNOWN_BYTES, OriginRequest, OriginResponse, Upstream
from streamedge.origin.answers import fold_fields
from streamedge.origin.objects import ResponseRead

PASSING_S = 60.0  # for how long the requests of a key that could not be stored are not gathered
PASSING_KEYS_MAX = 8192
VARYING_KEYS_MAX = 65_536


@dataclass(slots=True)
class Handling:
    """How a request was handled, in the words of Cache-Status (RFC 9211 §2)."""

    hit: bool = False
    forwarded: str = ""  # why: uri-miss, vary-miss, stale, request, bypass, method
    status: int = 0  # the origin's
    stored: bool = False
    collapsed: bool = False
    detail: str = ""


_USABLE = frozenset({Reuse.FRESH, Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE})


class Stored(NamedTuple):
    """An answer out of the cache; the reader is the caller's to close."""

    reader: Reader
    result: CacheResult
    handling: Handling


class Passed(NamedTuple):
    """An answer that goes through; the caller's to read or close."""

    response: OriginResponse
    handling: Handling


class Unavailable(NamedTuple):
    """``only-if-cached`` was asked, and nothing that may be used is cached: 504 (§5.2.1.7)."""


Outcome = Stored | Passed | Unavailable


NOT_SENT = SentAt(0.0, -1)


@dataclass(slots=True, eq=False)
class _Asking:
    """The origin being asked for a key, and how many wait to hear what it said."""

    handling: Handling = field(default_factory=Handling)
    waiting: int = 0
    is_cold: bool = False  # nothing was known when it began
    opened: OpenVersion | None = None
    unchanged: bool = False
    response: OriginResponse | None = None  # for the first who takes it
    sent: SentAt = NOT_SENT  # the last request for it
    position: int = 0  # stands for a reader, so that nothing is closed before they come
    want_end: int = UNKNOWN_BYTES

    def settle(self) -> None:
        """Lets go of what nobody has taken, when nobody is left to."""
        if self.waiting:
            return
        if self.opened is not None:
            self.opened.leave(self)
        if self.response is not None:
            self.response.close()
            self.response = None


class ResponseCache:
    """The web door of a worker's cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._asking: dict[str, tuple[_Asking, asyncio.Task[None]]] = {}
        self._passing: dict[str, float] = {}  # until when, by key
        self._varying: dict[str, tuple[str, ...]] = {}  # what the answers of a key vary by

    async def respond(self, ask: Ask) -> Outcome:
        """The answer to a request. Raises OriginError, CacheFullError."""
        collapsed = False
        while True:
            now_s = time.time()
            running = self._asking.get(ask.asset.key)
            if running is not None and running[0].is_cold and not collapsed:
                # Nothing is known yet, as the one who asks has seen: no need to look again.
                asset, record, why = ask.asset, None, "uri-miss"
            else:
                asset, record, why = self._select(ask)
            reuse = decide(self._cache, ask, asset, record, now_s)
            if record is not None and reuse in _USABLE:
                opened = self._open(asset, record)
                if reuse is Reuse.STALE_WHILE_REVALIDATE:
                    self._ask_later(ask, asset, record)
                return self._hit(opened, ask, collapsed)
            if reuse is Reuse.GATEWAY_TIMEOUT:
                return Unavailable()
            if self._passing.get(asset.key, 0.0) > now_s:
                return await self._ask_alone(ask, asset, record, why)
            running = self._asking.get(asset.key)
            asking, task = running or self._begin(ask, asset, record, why)
            asking.waiting += 1
            try:
                await asyncio.shield(task)
                taken = self._take(asking, ask) if running is None else self._join(asking, ask)
            except OriginError as exc:
                raise OriginError(exc.failure, str(exc)) from exc
            finally:
                asking.waiting -= 1
                asking.settle()
            if taken is not None:
                return taken
            collapsed = True

    def asking(self, key: str) -> asyncio.Task[None] | None:
        """The task that asks the origin for a key of which nothing is known yet."""
        running = self._asking.get(key)
        return running[1] if running is not None and running[0].is_cold else None

    def refuse_older(self, *primary_keys: str) -> None:
        """After a write: nothing that was asked for before is used again, in any worker."""
        self._cache.refuse_older(*primary_keys)

    def variant(self, key: str, fields: Mapping[str, str]) -> str:
        """The key of the variant that request fields select, as far as it is known here."""
        varies_by = self._varying.get(key)
        return key if varies_by is None else variant_key(key, varies_by, fields)

    # What is stored

    def _select(self, ask: Ask) -> tuple[Asset, Record | None, str]:
        """The asset of the variant that the request selects, its record, else why there is none."""
        asset = ask.asset
        record = self._known(asset)
        if record is not None and record.varies_by:
            self._vary(asset.key, record.varies_by)
            asset = _variant(asset, record.varies_by, ask.fields)
            record = self._known(asset)
            if record is None:
                return asset, None, "vary-miss"
        if record is None or record.is_marker:
            return asset, None, "uri-miss"
        return asset, record, "stale"

    def _known(self, asset: Asset) -> Record | None:
        """What is remembered under the asset's key, if it may still be used."""
        opened = self._cache.present(asset.key, asset.subject)
        if opened is not None:
            return opened.record
        record = self._cache.store.load_record(asset.key)
        return None if record is not None and is_refused(self._cache, asset, record) else record

    def _open(self, asset: Asset, record: Record) -> OpenVersion:
        opened = self._cache.admit(asset, record, only_fresh=False)
        assert opened is not None
        return opened

    def _hit(self, opened: OpenVersion, ask: Ask, collapsed: bool) -> Stored:
        reader = self._reader(opened, ask, CacheResult.HIT, ask.asset.subject)
        return Stored(reader, reader.result, Handling(hit=True, collapsed=collapsed))

    def _reader(
        self, opened: OpenVersion, ask: Ask, result: CacheResult, subject: Subject
    ) -> Reader:
        wanted = ask.wanted_of(opened.version.size_bytes)
        return self._cache.reader(opened, wanted, result, subject)

    # Asking the origin

    def _begin(
        self, ask: Ask, asset: Asset, record: Record | None, why: str
    ) -> tuple[_Asking, asyncio.Task[None]]:
        asking = _Asking(Handling(forwarded=why), position=ask.want.start, is_cold=record is None)
        task = asyncio.get_running_loop().create_task(
            self._ask_in_turn(asking, ask, asset, record), name="ask"
        )
        self._asking[asset.key] = asking, task
        self._cache.keep(task)
        task.add_done_callback(lambda done: self._ended(asset.key, asking, done))
        return asking, task

    def _ended(self, key: str, asking: _Asking, task: asyncio.Task[None]) -> None:
        del self._asking[key]
        asking.settle()
        if not task.cancelled():
            task.exception()  # seen, even if every viewer has left

    def _take(self, asking: _Asking, ask: Ask) -> Stored | Passed | None:
        """What was asked for on behalf of this very request."""
        if asking.opened is not None:
            result = CacheResult.REFRESH_HIT if asking.unchanged else CacheResult.MISS
            if asking.handling.hit:
                result = CacheResult.HIT
            reader = self._reader(asking.opened, ask, result, ask.asset.subject)
            return Stored(reader, reader.result, asking.handling)
        response, asking.response = asking.response, None
        return None if response is None else Passed(response, asking.handling)

    def _join(self, asking: _Asking, ask: Ask) -> Stored | None:
        """The same for another request, if what has come is for that one too."""
        if asking.opened is None:
            return None
        asset = self._select(ask)[0]
        if asset.key != asking.opened.asset.key or self._is_outdated(asking, asset):
            return None
        reader = self._reader(asking.opened, ask, CacheResult.HIT, asset.subject)
        return Stored(reader, reader.result, replace(asking.handling, collapsed=True))

    def _is_outdated(self, asking: _Asking, asset: Asset) -> bool:
        """Whether something has changed since the origin was asked, for who has come since."""
        if asking.opened is None or asking.sent.change == self._cache.store.changes.number:
            return False
        record = asking.opened.record
        asked = replace(
            record,
            validated_s=max(record.validated_s, asking.sent.time_s),
            asked_change=max(record.asked_change, asking.sent.change),
            position=max(record.position, asking.sent.position),
        )
        return self._cache.rulings.of_record(asset, asked).verdict is not Verdict.FRESH

    async def _ask_alone(self, ask: Ask, asset: Asset, record: Record | None, why: str) -> Outcome:
        """Asks without waiting for others, nor making them wait."""
        asking = _Asking(Handling(forwarded=why), waiting=1)
        try:
            await self._ask(asking, ask, asset, record, is_passed=True)
            taken = self._take(asking, ask)
        finally:
            asking.waiting = 0
            asking.settle()
        assert taken is not None
        return taken

    def _ask_later(self, ask: Ask, asset: Asset, record: Record) -> None:
        """Validates in the background (RFC 5861 §3)."""
        if asset.key not in self._asking:
            self._begin(ask, asset, record, "stale")

    async def _ask_in_turn(
        self, asking: _Asking, ask: Ask, asset: Asset, record: Record | None
    ) -> None:
        """Asks unless another worker is at it; then waits for what that one finds out."""
        store = self._cache.store
        while not store.lock_asset(asset.key):  # noqa: ASYNC110  # locks of other processes
            await asyncio.sleep(TICK_S)
        try:
            asking.sent = self._cache.sent_now()
            present = store.load_record(asset.key)
            if (
                present is not None
                and not present.is_marker
                and present != record
                and not is_refused(self._cache, asset, present)
            ):
                record = present
                if decide(self._cache, ask, asset, present, time.time()) is Reuse.FRESH:
                    asking.handling = Handling(hit=True)  # another worker has asked meanwhile
                    self._bring(asking, self._open(asset, present))
                    return
            elif record is not None and is_refused(self._cache, asset, record):
                record = None  # while it waited for its turn
            await self._ask(asking, ask, asset, record)
        finally:
            store.unlock_asset(asset.key)

    async def _ask(
        self,
        asking: _Asking,
        ask: Ask,
        asset: Asset,
        record: Record | None,
        *,
        is_passed: bool = False,
    ) -> None:
        request = request_for(ask, record, is_passed=is_passed)
        asking.sent = sent = self._cache.sent_now()
        try:
            response = await self._send(ask.upstream, request)
            if response.status == 416 and (ask.is_object or ask.suffix_bytes):
                response.close()  # how long it is decides on the answer, also for other ranges
                method = "HEAD" if ask.is_object else request.method
                request = replace(request, method=method, fields=without_range(request.fields))
                response = await self._send(ask.upstream, request)
        except OriginError as exc:
            if record is None or not may_serve_stale(self._cache, ask, asset, record):
                raise
            asking.handling.detail = exc.failure.value
            self._bring(asking, self._open(asset, record), unchanged=True)
            return
        try:
            is_heeded = self._heed(asking, ask, asset, record, request, response, sent)
        except BaseException:
            response.close()
            raise
        if is_heeded:
            return
        response.close()
        if is_passed and record is None:
            raise OriginError(
                OriginFailure.UNAVAILABLE,
                f"{asset.origin_name} {asset.name!a}: answered {response.status} unasked",
            )
        await self._ask(asking, ask, asset, None, is_passed=True)

    async def _send(self, upstream: Upstream, request: OriginRequest) -> OriginResponse:
        """Sends a request that may be sent again, several times if it fails in passing."""
        retries = self._cache.retries
        for attempt in range(retries + 1):
            try:
                return await upstream.send(request)
            except OriginError as exc:
                if not exc.retryable or attempt == retries:
                    raise
                await asyncio.sleep(backoff_s(attempt, random.random()))
        raise AssertionError("the last attempt returns or raises")

    def _heed(
        self,
        asking: _Asking,
        ask: Ask,
        asset: Asset,
        record: Record | None,
        request: OriginRequest,
        response: OriginResponse,
        sent: SentAt,
    ) -> bool:
        """Brings what an answer means: an update, a new version, an old one after all, itself.

        False when it means nothing to the viewer: what was asked was another question.
        """
        status, fields = response.status, fold_fields(response.fields)
        asking.handling.status = status
        now_s = time.time()
        if record is not None and is_confirmed(record, request, status, fields):
            response.close()
            opened = self._open(asset, confirmed(record, fields, sent, now_s))
            self._cache.remember(asset, opened.record)
            self._bring(asking, opened, unchanged=True)
            return True
        if (
            status >= 500
            and record is not None
            and may_serve_stale(self._cache, ask, asset, record)
        ):
            response.close()
            self._bring(asking, self._open(asset, record), unchanged=True)
            return True
        storable = (request.method == "GET" or ask.is_object) and is_storable(
            "GET",
            fold_fields(request.fields) | directives(ask),
            status,
            fields,
            asset.rules,
            heeds_viewer=ask.heeds_viewer,
        )
        if storable:
            opened_read = opening(asset, request, response, fields, sent, now_s)
            if opened_read is not None:
                kept = self._store(ask, *opened_read)
                if kept is not None:
                    self._bring(asking, kept)
                    asking.handling.stored = True
                    return True
        if record is not None and is_contradicted(record, request, status, fields):
            self._cache.refuse_older(asset.key)
        if request.method == "GET" and status != 304:
            self._pass_for_a_while(asset.key, now_s)
        if not may_pass(ask, request, status, fields):
            return False
        asking.response = response
        return True

    def _store(self, ask: Ask, record: Record, read: ResponseRead | None) -> OpenVersion | None:
        """Begins to keep an answer, under the key of its variant.

        None: there is no room to begin with, on disk nor in memory, so it is to be passed on.
        """
        base, varies_by = ask.asset, parse_vary(stored_fields(record.head))
        self._heed_vary(base.key, varies_by)
        asset = _variant(base, varies_by, ask.fields) if varies_by else base
        record = replace(record, key=asset.key)
        opened = self._open(asset, record)
        if read is not None:
            try:
                opened.extent_to_fill(read.span.start // EXTENT_BYTES)
            except CacheFullError:
                self._cache.drop(opened)
                return None
            opened.adopt(read, read.trailers)
        if record.head.version.has_ended:
            self._cache.remember(asset, record)
        self._passing.pop(ask.asset.key, None)
        return opened

    def _heed_vary(self, key: str, varies_by: tuple[str, ...]) -> None:
        """Notes what the answers of a key differ by, where that is new (§4.1)."""
        if not varies_by:
            self._varying.pop(key, None)
            return
        self._vary(key, varies_by)
        known = self._cache.store.load_record(key)
        if known is None or known.varies_by != varies_by:
            self._cache.begin_to_vary(key, varies_by)

    def _bring(self, asking: _Asking, opened: OpenVersion, *, unchanged: bool = False) -> None:
        asking.opened = opened
        asking.unchanged = unchanged
        opened.enter(asking)

    def _vary(self, key: str, varies_by: tuple[str, ...]) -> None:
        if len(self._varying) >= VARYING_KEYS_MAX:
            self._varying.clear()
        self._varying[key] = varies_by

    def _pass_for_a_while(self, key: str, now_s: float) -> None:
        if len(self._passing) >= PASSING_KEYS_MAX:
            self._passing.clear()
        self._passing[key] = now_s + PASSING_S


def _variant(asset: Asset, varies_by: tuple[str, ...], fields: Mapping[str, str]) -> Asset:
    """The asset of the variant that request fields select."""
    key = variant_key(asset.key, varies_by, fields)
    return replace(asset, key=key, above=(asset.key, *asset.above))
