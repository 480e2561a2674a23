"""Packages a container file as FLV segments: for the cache, an origin of heads and segments.

Each segment is an object of its own, whose key has the version of the file, the edition of the
segments, the chosen audio and the segment's number; so it is never stale. The cache locks the key
of an object that is being made, so one run of a helper serves the viewers of all workers.

The size of a segment is known only when it is made. So all of it is made before its first byte can
be sent: it holds two seconds of media.
"""

from __future__ import annotations

from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.records import Asset, version_parts
from streamedge.errors import MediaError, OriginError, OriginFailure
from streamedge.keys import join_key
from streamedge.media.containers.process import HelperPool, HelperRequest, SourceFile
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.whole_objects import read_whole
from streamedge.spans import Span

SEGMENT_EDITION = 2  # part of each key: raise it when the bytes of a head or segment change


class ContainerFile:
    """One version of a container file, and the assets that are made of it.

    ``fault`` is why the last one could not be made: the cache passes only OriginError on.
    """

    def __init__(
        self, cache: Cache, helpers: HelperPool, source: Asset, head: OriginHead, container: str
    ) -> None:
        self.fault: MediaError | None = None
        self._helpers = helpers
        self._source = source
        self._head = head
        self._file = SourceFile(
            (source.key, head.version),
            source.name,
            container,
            head.version.size_bytes,
            lambda: cache.reopen(source, head),
        )

    @property
    def name(self) -> str:
        return self._source.name

    def head_asset(self) -> Asset:
        """The asset of the file's head, as JSON."""
        return self._asset("head", HelperRequest())

    def segment_asset(self, number: int, tracks: tuple[int, ...], selection: str) -> Asset:
        """The asset of a segment. ``selection`` is what the choice of ``tracks`` depends on."""
        return self._asset(f"{number}-{selection}", HelperRequest(number, tracks))

    def _asset(self, part: str, request: HelperRequest) -> Asset:
        return Asset(
            key=segment_key(self._source.key, part, self._head.version),
            name=self.name,
            origin=_PartOrigin(self, part, request),
            origin_name="packager",
            rules=IMMUTABLE,
        )

    def part_head(self, part: str, size_bytes: int) -> OriginHead:
        version = self._head.version
        etag = f'"{version.etag.strip(chr(34))}-seg{SEGMENT_EDITION}-{part}"'
        return OriginHead(Version(etag, size_bytes, version.last_modified_s), "video/x-flv")

    async def make(self, request: HelperRequest) -> bytes:
        """The bytes of a head or segment. Raises OriginError, CacheFullError."""
        try:
            data = await self._helpers.run(self._file, request)
        except MediaError as exc:
            self.fault = exc
            raise OriginError(OriginFailure.BROKEN, f"{self.name}: {exc}", retried=True) from exc
        except OriginError as exc:
            self.fault = None
            # The source's fill has retried already; another retry here would multiply them.
            raise OriginError(exc.failure, str(exc), retried=True) from exc
        self.fault = None
        return data


def segment_key(key: str, part: str, version: Version) -> str:
    """The cache key of a part of a container file. ``key`` and ``version``: of the file."""
    return join_key("segment", key, str(SEGMENT_EDITION), part, *version_parts(version))


class _PartOrigin:
    """The origin of one head or segment."""

    def __init__(self, file: ContainerFile, part: str, request: HelperRequest) -> None:
        self._file = file
        self._part = part
        self._request = request

    async def head(self, name: str) -> OriginHead:
        data = await self._file.make(self._request)
        return self._file.part_head(self._part, len(data))

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """Reads like any origin, but always returns the whole object, from its first byte on."""
        if if_none_match is not None:
            return None  # the key has the version, so the cached object is current
        data = await self._file.make(self._request)
        head = self._file.part_head(self._part, len(data))
        return read_whole(name, head, data, span, if_match, "packaged in another size")

    async def close(self) -> None:
        """Does nothing: no resource is held between reads."""
