"""Which rtmp distribution a client is in, and which medium a stream name means there.

Owns the way from tcUrl and application to a distribution, and from a name to the first object
that exists and that the viewer may have. Who may have what is asked anew each time, of the
distributions in force; what cannot be had comes out as a ``RefusalError``, in NetStream's codes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from streamedge.access.admission import NO_MATCH, AccessRules, Denied
from streamedge.access.geo import CountryDatabase
from streamedge.access.signature_cache import SignatureCache
from streamedge.access.signed_request import SIGNATURE_LIMIT_BYTES
from streamedge.access.wildcards import ResourcePattern
from streamedge.delivery.hosts import Distribution, HostTable
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
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import Medium

RESOLVED_TTL_S = 60.0  # how long a name means the object that it was found to mean
RESOLVED_MAX = 4096
# S3 says 403 of a missing object to whoever may not list the bucket.
_MISSING = frozenset({OriginFailure.NOT_FOUND, OriginFailure.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class RtmpDistribution(Distribution):
    """A distribution that is played over RTMP. ``pages``: whose players may have it; none: all."""

    applications: tuple[str, ...]
    is_strict: bool
    access: AccessRules
    pages: tuple[ResourcePattern, ...] = ()


class Admission(NamedTuple):
    """A visitor's distribution, and how its connect names the application there."""

    distribution: RtmpDistribution
    match: ApplicationMatch
    visitor: Client


class RefusalError(StreamEdgeError):
    """Why a stream is not played: a NetStream code, and a description fit for the viewer.

    ``reason`` is for the log, where it says more than the description or the cause.
    """

    def __init__(self, code: str, description: str, kind: str, reason: str = "") -> None:
        super().__init__(description)
        self.code = code
        self.kind = kind
        self.reason = reason


class WrongSignatureError(RefusalError):
    """The name has a signature that its key did not make for it: to find that out costs most."""


class StreamResolver:
    """The rtmp distributions of a worker, and their media."""

    def __init__(
        self,
        distributions: HostTable[RtmpDistribution],
        titles: MediaLibrary,
        countries: CountryDatabase,
        *,
        signature_bytes: int = SIGNATURE_LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._distributions = distributions
        self._titles = titles
        self._countries = countries
        self._signature_bytes = signature_bytes
        self._clock = clock
        self._remembered = SignatureCache()
        self._resolved: dict[tuple[str, str], tuple[float, str]] = {}

    def replace(self, distributions: HostTable[RtmpDistribution]) -> None:
        """Takes other distributions into force; what plays goes on by its medium."""
        self._distributions = distributions
        self._resolved.clear()

    def forget_media(self) -> None:
        """Reads every index anew when it is next asked for."""
        self._titles.forget()

    def admit(self, visitor: Client) -> Admission | Rejection:
        """Where a client that connects belongs; or why nowhere."""
        connect = visitor.connect
        found = self._distributions.find(tc_url_host(connect.tc_url))
        offers = [distribution.applications for distribution in found]
        chosen = choose_application(connect.app, connect.tc_url, offers)
        if chosen is not None:
            distribution, match = found[chosen[0]], chosen[1]
            rejection = page_rejection(distribution.pages, connect)
            if rejection is None and distribution.access.countries is not None:
                country = self._countries.country(visitor.address)
                rejection = country_rejection(distribution.access, country)
            return rejection or Admission(distribution, match, visitor)
        word = "InvalidInstance" if found else "DistributionNotFound"
        app, tc_url = redact_name(connect.app).text, redact_name(connect.tc_url).text
        return Rejection(
            "NetConnection.Connect.InvalidApp",
            f"No application {connect.app!r} here.",
            word,
            f"{word}: application {app!r} of {tc_url!r}",
        )

    def recheck(self, admission: Admission) -> Admission:
        """Where a connected client belongs by now. Raises RefusalError when nowhere."""
        found = self.admit(admission.visitor)
        if isinstance(found, Rejection):
            raise _not_allowed(found.reason)
        return found

    def check(self, admission: Admission, name: str, medium: Medium) -> None:
        """Whether a viewer may still have what it plays as ``name``. Raises RefusalError."""
        if medium.name not in self._permitted(admission, name):
            raise _not_allowed("the name means another object by now")

    async def open(self, admission: Admission, name: str, announced: frozenset[str]) -> Medium:
        """The medium that a stream name means.

        ``announced`` are the Enhanced RTMP codecs the client said it takes. Raises RefusalError.
        """
        names = self._permitted(admission, name)
        medium = await self._resolve(admission.distribution, names)
        enhanced = medium.head.enhanced
        if admission.distribution.is_strict and "*" not in announced and enhanced - announced:
            medium.close()
            codecs = ", ".join(sorted(enhanced - announced))
            raise RefusalError(
                "NetStream.Play.Failed",
                f"The stream needs Enhanced RTMP codecs that the client did not announce: {codecs}",
                "codec_not_announced",
            )
        return medium

    def _permitted(self, admission: Admission, name: str) -> tuple[str, ...]:
        """The objects that a name may mean and the viewer may have now, the likeliest first."""
        allowed = permitted_objects(
            admission.distribution.access,
            admission.visitor,
            admission.match.application,
            stream_names(admission.match, name),
            self._clock(),
            self._remembered,
            self._signature_bytes,
        )
        if not allowed:
            raise RefusalError("NetStream.Play.StreamNotFound", "This is no stream name.", "name")
        if isinstance(allowed, Denied):
            kind = WrongSignatureError if allowed.reason == NO_MATCH else RefusalError
            raise _not_allowed(allowed.reason, kind)
        return allowed

    async def _resolve(self, distribution: RtmpDistribution, names: tuple[str, ...]) -> Medium:
        """The medium of the object that ``names`` mean, remembered for RESOLVED_TTL_S."""
        key = (distribution.id, names[0])
        until_s, known = self._resolved.get(key, (0.0, ""))
        now_s = time.monotonic()
        if len(names) > 1 and until_s > now_s and known in names:
            try:
                return await self._first(distribution, (known,))
            except RefusalError:
                del self._resolved[key]
        medium = await self._first(distribution, names)
        if len(names) > 1:
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            self._resolved[key] = now_s + RESOLVED_TTL_S, medium.name
        return medium

    async def _first(self, distribution: RtmpDistribution, names: tuple[str, ...]) -> Medium:
        """The likeliest object that exists; all are asked for at once, in one round trip."""
        opening = [
            asyncio.ensure_future(self._titles.open(distribution.asset(name))) for name in names
        ]
        chosen: Medium | None = None
        try:
            await asyncio.wait(opening)
            failures = [task.exception() for task in opening]
            for task, failure in zip(opening, failures, strict=True):
                if failure is None:
                    chosen = task.result()
                    return chosen
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            for task in opening:
                if not task.cancelled() and not task.exception() and task.result() is not chosen:
                    task.result().close()
        # An origin that fails outranks one that says no: the stream may well be there.
        worst = next((failure for failure in failures if not _says_missing(failure)), failures[0])
        assert worst is not None
        raise refusal_of(worst) from worst


def refusal_of(failure: BaseException) -> RefusalError:
    """What a viewer is told of a failure of the media or of the origin. Raises any other."""
    if isinstance(failure, RefusalError):
        return failure
    if isinstance(failure, MediaError):
        if failure.fault is MediaFault.NO_SUPPORTED_TRACK:
            code = "NetStream.Play.NoSupportedTrackFound"
        else:
            code = "NetStream.Play.FileStructureInvalid"
        return RefusalError(code, str(failure), failure.fault.value)
    if isinstance(failure, CacheFullError):
        return RefusalError("NetStream.Play.Failed", "The edge has no room.", "cache_full")
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


def _says_missing(failure: BaseException | None) -> bool:
    return isinstance(failure, OriginError) and failure.failure in _MISSING


def tc_url_host(tc_url: str) -> str:
    """The host of ``rtmp://host:port/app``; empty when there is none."""
    _, separator, rest = tc_url.partition("://")
    return rest.partition("/")[0] if separator else ""


WRONG_SIGNATURES_MAX = 8  # of one client; each costs up to access.admission.RESOURCES_LIMIT


class SignatureFailureLimit:
    """Of one client; right signatures in between make up for none."""

    def __init__(self) -> None:
        self._wrong = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the WrongSignatureError that comes by."""
        try:
            yield
        except WrongSignatureError:
            self._wrong += 1
            raise

    @property
    def are_too_many(self) -> bool:
        return self._wrong >= WRONG_SIGNATURES_MAX
