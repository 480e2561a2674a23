"""A tier: the edges that the others request an origin's objects from.

Each extent (64 MiB) of an object has an order of members (``fleet.ownership``). Its first member,
the owner, requests the extent from the origin; a member at rank r requests it from the members
before it, and from the origin if they fail; every other edge requests it from all members in their
order. So each wait is for a strictly lower rank, and where the views of edges differ, the receiver
refuses (``delivery/peer``): no two edges wait for each other.

Extents of one object have different owners, so the rank alone would not order all waits: a lookup
holds its object's key while it waits. Therefore lookups, whatever their range, go by the order of
extent 0, and only reads of a known version, which wait for no lookup, by the order of their own
extent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from math import inf

from streamedge.errors import OriginError, OriginFailure
from streamedge.fleet.members import Member
from streamedge.fleet.ownership import PREVIOUS_OWNERS_S, owners, ranks
from streamedge.fleet.states import EdgeState
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.origin import (
    Duplex,
    Fields,
    ImmediateUpstream,
    OriginRequest,
    OriginResponse,
    SentRequest,
    Upstream,
)
from streamedge.origin.answers import fold_fields
from streamedge.origin.buffered import buffered_body
from streamedge.origin.objects import RequestedObject
from streamedge.origin.peer.client import PeerClients, PeerRefusal, PeerResponse
from streamedge.origin.peer.protocol import (
    AssetDescription,
    PeerHeader,
    PeerRequest,
    encode_request,
)
from streamedge.origin.peer.view import PeerView

TIER_EXTENT_BYTES = 64 << 20
"""An extent of the cache (``cache.storage.extent``): the part of an object that has one owner."""
BYPASSES_MAX = 8  # of a worker at a time, so that a tier that fails does not flood the origin
BYPASS_WAIT_S = 10.0  # for one of them
CACHED_SILENCE_S = 0.5  # for an edge that sends what is cached, or refuses at once

_FIRST_OF_RANGE = re.compile(r"bytes=(\d{1,18})-", re.ASCII)
# Sent to the other edge as they are; its cache makes those for the origin.
_CONDITIONS = frozenset(
    {
        *("if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since"),
        "range",
    }
)
_METHODS = frozenset({"GET", "HEAD"})


def never_pending(_name: str) -> bool:
    """For origins whose writes do not wait on this edge."""
    return False


class Fleet:
    """What the tiers of a worker share: the view, the connections, and the limit of bypasses.

    ``tiers``: the names of the edges of each tier; a new config replaces them.
    ``is_passed(key)``: responses of a key may not be stored (hit-for-miss); then its requests go
    from the viewer's edge to the origin.
    """

    def __init__(
        self,
        view: PeerView,
        clients: PeerClients,
        log: Log,
        counts: Counts,
        is_passed: Callable[[str], bool],
        tiers: Mapping[str, Sequence[str]],
    ) -> None:
        self._tiers = tiers
        self._previous_tiers = tiers
        self._tiers_changed_s = -inf
        self.view = view
        self.clients = clients
        self.is_passed = is_passed
        self._counts = counts
        self._bypasses = asyncio.Semaphore(BYPASSES_MAX)
        self._bypassed = RateLimitedEvent(log, "tier_bypassed")

    def use_tiers(self, tiers: Mapping[str, Sequence[str]]) -> None:
        """Uses the tiers of a new config."""
        if tiers != self._tiers:
            self._previous_tiers, self._tiers = self._tiers, tiers
            self._tiers_changed_s = asyncio.get_running_loop().time()

    def owners(self, tier: str) -> list[Member]:
        """The members that own the objects of a tier now."""
        return owners(self._tiers.get(tier, ()), self.view.members)

    def previous_owners(self, tier: str) -> list[Member]:
        """As ``owners``, before the changes of the last hour; empty if there were none."""
        tiers, members = self._tiers, self.view.previous_members
        if asyncio.get_running_loop().time() < self._tiers_changed_s + PREVIOUS_OWNERS_S:
            tiers, members = self._previous_tiers, members or self.view.members
        return owners(tiers.get(tier, ()), members)

    async def bypass(
        self, upstream: Upstream, request: OriginRequest, reason: str, detail: str
    ) -> OriginResponse:
        """Sends a request to the origin because the tier does not answer. Raises OriginError."""
        self._counts.add(Counter.ORIGIN_BYPASSES, reason)
        loop = asyncio.get_running_loop()
        self._bypassed.emit(loop.time(), reason=reason, detail=detail)
        try:
            async with asyncio.timeout(BYPASS_WAIT_S):
                await self._bypasses.acquire()
        except TimeoutError as exc:
            raise OriginError(
                OriginFailure.TIMEOUT,
                f"the tier does not answer ({reason}), and {BYPASSES_MAX} requests of this worker"
                " are at the origin already",
            ) from exc
        try:
            response = await upstream.send(request)
        except BaseException:
            self._bypasses.release()
            raise
        return _Bypass(response, self._bypasses.release)


class Tier:
    """One tier, as the origins that name it use it."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self.name = name

    def owners(self) -> list[Member]:
        """The members that own objects now."""
        return self._fleet.owners(self.name)

    def upstream(
        self,
        asset: AssetDescription,
        upstream: Upstream,
        is_pending: Callable[[str], bool] = never_pending,
    ) -> TieredUpstream:
        """The upstream for the requests of an asset; ``upstream`` is its origin's own.

        ``is_pending``: whether a write of the object waits on this edge.
        """
        return TieredUpstream(self._fleet, self, asset, upstream, is_pending)


class TieredUpstream:
    """An ``Upstream`` that requests from the members of a tier before the origin.

    Only for GET and HEAD without a body. ``variant``: the key of the variant whose versions are
    read; "" without a Vary.
    """

    def __init__(
        self,
        fleet: Fleet,
        tier: Tier,
        asset: AssetDescription,
        upstream: Upstream,
        is_pending: Callable[[str], bool],
        variant: str = "",
    ) -> None:
        self._fleet = fleet
        self._tier = tier
        self._asset = asset
        self._upstream = upstream
        self._is_pending = is_pending
        self._variant = variant

    def for_variant(self, key: str) -> TieredUpstream:
        """The upstream for reads of a variant's versions."""
        return TieredUpstream(
            self._fleet, self._tier, self._asset, self._upstream, self._is_pending, key
        )

    def send_at_once(
        self, request: OriginRequest, interim: Callable[[int, Fields], None] | None
    ) -> SentRequest | None:
        """As ``ImmediateUpstream.send_at_once``: for what this edge requests from the origin."""
        upstream = self._upstream
        if not isinstance(upstream, ImmediateUpstream) or not self._is_passed():
            return None
        return upstream.send_at_once(request, interim)

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``. Raises OriginError."""
        fleet, asset = self._fleet, self._asset
        if request.method not in _METHODS or request.body is not None:
            return await self._upstream.send(request)
        if self._is_passed():
            return await self._upstream.send(request)
        fields = fold_fields(request.fields)
        extent = extent_of(fields.get("range", ""), is_read=request.if_match is not None)
        if self._is_pending(request.name):
            return await self._upstream.send(request)  # a write that only this edge has
        view = fleet.view
        view.catch_up()
        order = ranks(asset.key, extent, self._tier.owners())
        before = [member.name for member in order]
        own_rank = before.index(view.name) if view.name in before else None
        candidates = order if own_rank is None else order[:own_rank]
        reason = _reason_to_bypass(view)
        if reason and own_rank != 0:
            return await fleet.bypass(self._upstream, request, reason, asset.name)
        encoded = encode_request(self._peer_request(request))
        if encoded is None:
            return await fleet.bypass(self._upstream, request, "too_large", asset.name)
        if not candidates:
            if not reason:
                response = await self._from_previous_owner(request, encoded, extent)
                if response is not None:
                    return response
            if own_rank == 0:
                return await self._upstream.send(request)
            return await fleet.bypass(self._upstream, request, "no_members", self._tier.name)
        refusals = []
        for rank, member in enumerate(candidates):
            if not fleet.clients.admits(member):
                refusals.append(f"{member.name}: down")
                continue
            outcome = await self._request(member, rank, request, encoded)
            if isinstance(outcome, PeerResponse):
                return outcome
            refusals.append(f"{member.name}: {outcome.reason}")
        return await fleet.bypass(self._upstream, request, "no_answer", "; ".join(refusals))

    async def send_past_tier(self, request: OriginRequest) -> OriginResponse:
        """Sends a request to the origin, because what another edge has is too old. Raises
        OriginError."""
        return await self._fleet.bypass(self._upstream, request, "outdated", self._asset.name)

    def _is_passed(self) -> bool:
        """Whether responses to these requests may not be stored, as far as this edge knows."""
        is_passed = self._fleet.is_passed
        return is_passed(self._asset.key) or (bool(self._variant) and is_passed(self._variant))

    async def _request(
        self,
        member: Member,
        rank: int,
        request: OriginRequest,
        encoded: str,
    ) -> PeerResponse | PeerRefusal:
        """Sends a request to a member. Raises OriginError for a failure of the origin."""
        view = self._fleet.view
        outcome = await self._fleet.clients.send(
            member,
            request.method,
            PeerHeader(view.name, rank, view.applied),
            encoded,
            _conditions(request),
            view.local_position,
            interim=request.interim,
        )
        return self._checked(outcome, request)

    async def _from_previous_owner(
        self, request: OriginRequest, encoded: str, extent: int
    ) -> PeerResponse | None:
        """What the owner before the last change of members has cached."""
        fleet = self._fleet
        view = fleet.view
        previous = ranks(self._asset.key, extent, fleet.previous_owners(self._tier.name))
        if not previous or previous[0].name == view.name or not fleet.clients.admits(previous[0]):
            return None
        outcome = await fleet.clients.send(
            previous[0],
            request.method,
            PeerHeader(view.name, 0, view.applied, is_cached_only=True),
            encoded,
            _conditions(request),
            view.local_position,
            silence_max_s=CACHED_SILENCE_S,
        )
        if isinstance(outcome, PeerRefusal):
            return None
        if outcome.answer.failure is not None or outcome.answer.is_stale:
            outcome.close()
            return None
        return outcome

    def _checked(
        self, outcome: PeerResponse | PeerRefusal, request: OriginRequest
    ) -> PeerResponse | PeerRefusal:
        """The outcome, unless the origin has failed. Raises OriginError."""
        if isinstance(outcome, PeerRefusal):
            return outcome
        failure = outcome.answer.failure
        subject = f"{self._asset.origin_name} {self._asset.name!a}"
        if failure is not None:
            outcome.close()
            message = f"{subject}: {failure.value}, as another edge of the tier reports"
            raise OriginError(failure, message, retried=True)
        if outcome.answer.is_stale and not _unconditional(request):
            # This edge has a stale response of its own, and the rules for sending it.
            outcome.close()
            message = f"{subject}: the other edge of the tier has a stale response only"
            raise OriginError(OriginFailure.UNAVAILABLE, message, retried=True)
        return outcome

    def _peer_request(self, request: OriginRequest) -> PeerRequest:
        version = request.if_match
        return PeerRequest(
            self._asset,
            request.method,
            request.path,
            request.query,
            tuple(field for field in request.fields if field[0].lower() not in _CONDITIONS),
            version,
            self._variant if version is not None else "",
        )


class TieredObject(RequestedObject):
    """The object that one request gets through a tier, as an ``Origin``."""

    def __init__(self, label: str, upstream: TieredUpstream, request: OriginRequest) -> None:
        super().__init__(label, upstream, request)
        self.label = label
        self.upstream = upstream
        self.request = request

    def for_variant(self, key: str) -> TieredObject:
        """The same object as one variant, of which versions are read."""
        return TieredObject(self.label, self.upstream.for_variant(key), self.request)


class _Bypass:
    """An origin's response; ``release`` is called once, at its end."""

    def __init__(self, response: OriginResponse, release: Callable[[], None]) -> None:
        self.status = response.status
        self.fields = response.fields
        self.size_bytes = response.size_bytes
        self._response = response
        self._release: Callable[[], None] | None = release

    @property
    def trailers(self) -> Fields:
        return self._response.trailers

    async def body(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.body():
                yield piece
        finally:
            self._end()

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return await buffered_body(self._response, within_s)

    def take_received_body(self) -> bytes | None:
        body = self._response.take_received_body()
        if body is not None:
            self._end()
        return body

    def upgrade(self) -> tuple[bytes, Duplex]:
        self._end()
        return self._response.upgrade()

    def close(self) -> None:
        self._end()
        self._response.close()

    def _end(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()


def extent_of(range_value: str, *, is_read: bool) -> int:
    """The extent by whose order a request with this Range goes: a lookup by the first one's."""
    if not is_read:
        return 0
    first = _FIRST_OF_RANGE.match(range_value)
    return 0 if first is None else int(first[1]) // TIER_EXTENT_BYTES


def _reason_to_bypass(view: PeerView) -> str:
    """Why other edges cannot be relied on now; "" if they can."""
    if view.state is EdgeState.LOST:
        return "lost"
    return "unplaced" if view.has_unplaced_rows else ""


def _conditions(request: OriginRequest) -> Fields:
    return [field for field in request.fields if field[0].lower() in _CONDITIONS]


def _unconditional(request: OriginRequest) -> bool:
    """Whether no stored response is being validated."""
    return all(
        field[0].lower() not in {"if-none-match", "if-modified-since"} for field in request.fields
    )
