"""Resolves a client to its RTMP distribution, and a stream name to the medium that it plays.

The distribution follows from tcUrl and application. A name means the first candidate object that
exists and that the viewer may play. Access is checked each time, against the current distributions.
A ``RefusalError`` has the NetStream code for the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple
from urllib.parse import parse_qsl

from streamedge.access.admission import NO_MATCH, AccessRules, Denied
from streamedge.access.geo import CountryDatabase
from streamedge.access.signature_cache import SignatureCache
from streamedge.access.signed_request import SIGNATURE_LIMIT_BYTES
from streamedge.access.wildcards import ResourcePattern
from streamedge.delivery.hosts import Distribution, HostTable
from streamedge.delivery.nearest import NearestEdges
from streamedge.delivery.rtmp.aggregates import Aggregation
from streamedge.delivery.rtmp.protocol.events import Connect
from streamedge.delivery.rtmp.stream_access import (
    NOT_ALLOWED,
    Client,
    Rejection,
    country_rejection,
    page_rejection,
    permitted_objects,
    redact_name,
)
from streamedge.delivery.rtmp.stream_names import ApplicationMatch, choose_application, stream_names
from streamedge.errors import (
    CacheFullError,
    MediaError,
    MediaFault,
    OriginError,
    OriginFailure,
    StreamEdgeError,
)
from streamedge.fleet.nearest import split_edge_label, with_edge_label
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import Medium
from streamedge.media.track_choice import DEFAULT_TRACKS, TrackChoice, read_choice

RESOLVED_TTL_S = 60.0  # how long the object of a name is cached
RESOLVED_MAX = 4096
# S3 answers 403 for a missing object when the caller may not list the bucket.
_NOT_THE_FILES = frozenset(
    {MediaFault.NO_SUCH_TRACK, MediaFault.EXTRA_MISSING, MediaFault.HELPER_NOT_STARTED}
)
_MISSING = frozenset({OriginFailure.NOT_FOUND, OriginFailure.FORBIDDEN})


class Tracks(Enum):
    """The values of a distribution's ``tracks``: who gets all audio tracks, as multitrack."""

    ONE = "one"  # no client
    ANNOUNCED = "announced"  # clients that announce it (capsEx 2)
    ALL = "all"


@dataclass(frozen=True, slots=True)
class RtmpDistribution(Distribution):
    """A distribution for RTMP. Only players on a page of ``pages`` may connect; if it is empty, all
    may.
    """

    applications: tuple[str, ...]
    is_strict: bool
    access: AccessRules
    pages: tuple[ResourcePattern, ...] = ()
    nearest: bool = False
    aggregation: Aggregation = Aggregation.AUTO
    tracks: Tracks = Tracks.ANNOUNCED


class Admission(NamedTuple):
    """A client's distribution, and how its connect names the application."""

    distribution: RtmpDistribution
    match: ApplicationMatch
    client: Client


class RefusalError(StreamEdgeError):
    """Why a stream is not played: a NetStream code, and a description for the viewer.

    ``reason`` is for the log; empty when description and cause are enough.
    """

    def __init__(self, code: str, description: str, kind: str, reason: str = "") -> None:
        super().__init__(description)
        self.code = code
        self.kind = kind
        self.reason = reason


class WrongSignatureError(RefusalError):
    """The signature does not match the name. This is the most expensive check."""


class StreamResolver:
    """The RTMP distributions of a worker and their media."""

    def __init__(
        self,
        distributions: HostTable[RtmpDistribution],
        library: MediaLibrary,
        countries: CountryDatabase,
        *,
        signature_bytes: int = SIGNATURE_LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
        nearest: NearestEdges | None = None,
    ) -> None:
        self._nearest = nearest  # None in a fleet of one
        self._distributions = distributions
        self._library = library
        self._countries = countries
        self._signature_bytes = signature_bytes
        self._clock = clock
        self._signatures = SignatureCache()
        self._resolved_names: dict[tuple[str, str], tuple[float, str]] = {}

    def replace(self, distributions: HostTable[RtmpDistribution]) -> None:
        """Replaces the distributions. Running plays continue."""
        self._distributions = distributions
        self._resolved_names.clear()

    def forget_media(self) -> None:
        """Drops all media indexes; they are read again when needed."""
        self._library.drop_indexes()

    def admit(self, client: Client) -> Admission | Rejection:
        """Chooses the distribution and application of a connecting client, or rejects it."""
        client = self._without_edge_name(client)
        connect = client.connect
        distributions = self._distributions.find(tc_url_host(connect.tc_url))
        offers = [distribution.applications for distribution in distributions]
        choice = choose_application(connect.app, connect.tc_url, offers)
        if choice is not None:
            distribution, match = distributions[choice[0]], choice[1]
            rejection = page_rejection(distribution.pages, connect)
            if rejection is None and distribution.access.countries is not None:
                country = self._countries.country(client.address)
                rejection = country_rejection(distribution.access, country)
            return rejection or Admission(distribution, match, client)
        word = "InvalidInstance" if distributions else "DistributionNotFound"
        app, tc_url = redact_name(connect.app).text, redact_name(connect.tc_url).text
        return Rejection(
            "NetConnection.Connect.InvalidApp",
            f"No application {connect.app!r} here.",
            word,
            f"{word}: application {app!r} of {tc_url!r}",
        )

    def _without_edge_name(self, client: Client) -> Client:
        """The client with an alias in tcUrl, where it uses an edge's name below the alias."""
        if self._nearest is None or client.edge_label:
            return client
        tc_url = client.connect.tc_url
        sent = tc_url_host(tc_url)
        label, host = split_edge_label(sent, self._nearest.names)
        if not label or self._distributions.has_exact(sent):
            return client
        matches = self._distributions.find(host)
        if not any(one.nearest for one in matches):
            return client
        connect = replace(client.connect, tc_url=tc_url.replace(sent, host, 1))
        return Client(connect, client.address, label)

    def tc_url_elsewhere(self, admission: Admission) -> str:
        """The tcUrl of the edge that is nearest to the client; "" if it plays here.

        Only clients that announce that they follow a redirect get one: most players take it for an
        error, and reach the nearest edge by DNS. They announce it by Enhanced RTMP's bit for
        reconnecting (capsEx), or by ``redirect=302`` in tcUrl's query, which every player can send.
        """
        client = admission.client
        if self._nearest is None or not admission.distribution.nearest or client.edge_label:
            return ""
        if not _follows_redirects(client.connect):
            return ""
        return _tc_url_of(client, self._nearest.elsewhere)

    def tc_url_after(self, admission: Admission) -> str:
        """The tcUrl of the edge to use after this one, which stops or drains; "" if unknown.

        Then the client reconnects to the tcUrl that it has, and DNS leads it elsewhere.
        """
        if self._nearest is None or not admission.distribution.nearest:
            return ""
        return _tc_url_of(admission.client, self._nearest.next_edge)

    def recheck(self, admission: Admission) -> Admission:
        """Admits a connected client under the current distributions. Raises RefusalError."""
        result = self.admit(admission.client)
        if isinstance(result, Rejection):
            raise _not_allowed(result.reason)
        return result

    def check(self, admission: Admission, name: str, medium: Medium) -> None:
        """Raises RefusalError if the viewer may no longer play ``medium`` as ``name``."""
        if medium.name not in self._permitted_objects(admission, name):
            raise _not_allowed("the name means another object now")

    async def open(self, admission: Admission, name: str, client_codecs: frozenset[str]) -> Medium:
        """Opens the medium of a stream name.

        ``client_codecs``: the Enhanced RTMP codecs that the client announced. Raises RefusalError.
        """
        names = self._permitted_objects(admission, name)
        choice = _track_choice(admission, name)
        medium = await self._resolve(admission.distribution, names, choice)
        if (
            admission.distribution.is_strict
            and "*" not in client_codecs
            and medium.head.multitrack - client_codecs
        ):
            medium.close()
            medium = await self._resolve(admission.distribution, names, DEFAULT_TRACKS)
        enhanced = medium.head.enhanced
        if (
            admission.distribution.is_strict
            and "*" not in client_codecs
            and enhanced - client_codecs
        ):
            medium.close()
            codecs = ", ".join(sorted(enhanced - client_codecs))
            raise RefusalError(
                "NetStream.Play.Failed",
                f"The stream needs Enhanced RTMP codecs that the client did not announce: {codecs}",
                "codec_not_announced",
            )
        return medium

    def _permitted_objects(self, admission: Admission, name: str) -> tuple[str, ...]:
        """The candidate objects of a name that the viewer may play now, the likeliest first."""
        allowed = permitted_objects(
            admission.distribution.access,
            admission.client,
            admission.match.application,
            stream_names(admission.match, name),
            self._clock(),
            self._signatures,
            self._signature_bytes,
        )
        if not allowed:
            raise RefusalError(
                "NetStream.Play.StreamNotFound", "The stream name is not valid.", "name"
            )
        if isinstance(allowed, Denied):
            kind = WrongSignatureError if allowed.reason == NO_MATCH else RefusalError
            raise _not_allowed(allowed.reason, kind)
        return allowed

    async def _resolve(
        self, distribution: RtmpDistribution, names: tuple[str, ...], choice: TrackChoice
    ) -> Medium:
        """Opens the likeliest existing object of ``names``; caches its name for RESOLVED_TTL_S."""
        key = (distribution.id, names[0])
        until_s, name = self._resolved_names.get(key, (0.0, ""))
        now_s = time.monotonic()
        if len(names) > 1 and until_s > now_s and name in names:
            try:
                return await self._first(distribution, (name,), choice)
            except RefusalError:
                del self._resolved_names[key]
        medium = await self._first(distribution, names, choice)
        if len(names) > 1:
            if len(self._resolved_names) >= RESOLVED_MAX:
                self._resolved_names.clear()
            self._resolved_names[key] = now_s + RESOLVED_TTL_S, medium.name
        return medium

    async def _first(
        self, distribution: RtmpDistribution, names: tuple[str, ...], choice: TrackChoice
    ) -> Medium:
        """Opens the likeliest object that exists; all are requested at once, in one round trip."""
        opening = [
            asyncio.ensure_future(self._library.open(distribution.asset(name), choice))
            for name in names
        ]
        medium: Medium | None = None
        try:
            failures: list[BaseException] = []
            for task in opening:  # if this one exists, less likely ones are not awaited
                await asyncio.wait([task])
                failure = task.exception()
                if failure is None:
                    medium = task.result()
                    return medium
                failures.append(failure)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            for task in opening:
                if not task.cancelled() and not task.exception() and task.result() is not medium:
                    task.result().close()
        # A failed origin outranks a 404: the stream may exist.
        worst = next((failure for failure in failures if not _is_missing(failure)), failures[0])
        raise refusal_of(worst) from worst


def refusal_of(failure: BaseException) -> RefusalError:
    """The refusal for a failure of the media or of the origin. Raises any other failure."""
    if isinstance(failure, RefusalError):
        return failure
    if isinstance(failure, MediaError):
        if failure.fault is MediaFault.NO_SUPPORTED_TRACK:
            code = "NetStream.Play.NoSupportedTrackFound"
        elif failure.fault in _NOT_THE_FILES:
            code = "NetStream.Play.Failed"
        else:
            code = "NetStream.Play.FileStructureInvalid"
        return RefusalError(code, str(failure), failure.fault.value)
    if isinstance(failure, CacheFullError):
        return RefusalError("NetStream.Play.Failed", "The edge cache is full.", "cache_full")
    if isinstance(failure, OriginError):
        kind = failure.failure.value
        if failure.failure in _MISSING:
            return RefusalError("NetStream.Play.StreamNotFound", "There is no such stream.", kind)
        return RefusalError(
            "NetStream.Play.Failed", f"The origin failed: {kind.replace('_', ' ')}.", kind
        )
    raise failure


def _not_allowed(reason: str, kind: type[RefusalError] = RefusalError) -> RefusalError:
    return kind("NetStream.Play.Failed", NOT_ALLOWED, "not_allowed", reason)


def _is_missing(failure: BaseException | None) -> bool:
    return isinstance(failure, OriginError) and failure.failure in _MISSING


def _track_choice(admission: Admission, name: str) -> TrackChoice:
    """The tracks that a client gets: of the name's ``audio`` parameter, or what it can play."""
    query = stream_names(admission.match, name)[0].query
    audio = next((value for key, value in parse_qsl(query) if key == "audio"), "")
    tracks = admission.distribution.tracks
    is_multitrack = tracks is Tracks.ALL or (
        tracks is Tracks.ANNOUNCED and admission.client.connect.can_play_multitrack
    )
    return read_choice(audio, is_multitrack=is_multitrack)


def _tc_url_of(client: Client, choose: Callable[[str], str | None]) -> str:
    """The client's tcUrl with the name of the edge that ``choose`` returns for its address."""
    tc_url = client.connect.tc_url
    sent = tc_url_host(tc_url)
    edge = choose(client.address) if sent else None
    host = None if edge is None else with_edge_label(sent, edge)
    return "" if host is None else tc_url.replace(sent, host, 1)


def _follows_redirects(connect: Connect) -> bool:
    query = connect.tc_url.partition("?")[2]
    return connect.can_reconnect or ("redirect", "302") in parse_qsl(query)


def tc_url_host(tc_url: str) -> str:
    """The host of ``rtmp://host:port/app``; empty when there is none."""
    _, separator, rest = tc_url.partition("://")
    return rest.partition("/")[0] if separator else ""


WRONG_SIGNATURES_MAX = 8  # of one client; each costs up to access.admission.RESOURCES_LIMIT checks


class SignatureFailureLimit:
    """Counts wrong signatures of one client; a right signature does not reset the count."""

    def __init__(self) -> None:
        self._failures = 0

    @contextmanager
    def count(self) -> Iterator[None]:
        """Counts a WrongSignatureError that leaves the block."""
        try:
            yield
        except WrongSignatureError:
            self._failures += 1
            raise

    @property
    def is_exceeded(self) -> bool:
        return self._failures >= WRONG_SIGNATURES_MAX
