"""All expected failures of StreamEdge.

A failure that a caller handles is one of these, with its cause (``raise … from``). Any other
exception is a defect. Nothing here logs or decides what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class StreamEdgeError(Exception):
    """Root of all expected failures."""


class OriginFailure(Enum):
    """Why an origin request failed."""

    NOT_FOUND = "not_found"  # 404, 410: the object is not there
    FORBIDDEN = "forbidden"  # 401, 403: the origin denies access to the edge
    RANGE_OUTSIDE = "range_outside"  # 416: the span lies past the object's end
    CHANGED = "changed"  # 412, or a response of another version than the requested one
    UNAVAILABLE = "unavailable"  # 5xx, 429, or an invalid response
    REFUSED = "refused"  # no connection: refused, unreachable, TLS or name failure
    TIMEOUT = "timeout"  # connected, then silent for too long
    BROKEN = "broken"  # the body ended early, ran over, or the connection was reset

    @property
    def retryable(self) -> bool:
        """Whether a retry may succeed."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        OriginFailure.UNAVAILABLE,
        OriginFailure.REFUSED,
        OriginFailure.TIMEOUT,
        OriginFailure.BROKEN,
    }
)


class OriginError(StreamEdgeError):
    """An origin request failed; ``failure`` is the kind, the message has the details.

    ``retried``: all allowed retries have been made. ``status`` is the origin's status, or 0 where
    the failure was not a status; ``fields`` are that response's header fields by lower-case name.
    """

    def __init__(
        self,
        failure: OriginFailure,
        message: str,
        *,
        retried: bool = False,
        status: int = 0,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.status = status
        self.retried = retried
        self.fields = fields or {}

    def clone(self) -> OriginError:
        """A copy to raise in another task: a shared exception would collect tracebacks."""
        return OriginError(
            self.failure, str(self), retried=self.retried, status=self.status, fields=self.fields
        )

    @property
    def retryable(self) -> bool:
        """Whether a retry may succeed."""
        return self.failure.retryable and not self.retried


class MediaFault(Enum):
    """Why bytes could not be played as media."""

    STRUCTURE_INVALID = "structure_invalid"  # truncated, lying or over a limit
    NO_SUPPORTED_TRACK = "no_supported_track"  # well-formed, but no supported codec
    NO_SUCH_TRACK = "no_such_track"  # the viewer chose a track that the medium does not have
    CODED = "coded"  # stored compressed (Content-Encoding), which no player unpacks
    EXTRA_MISSING = "extra_missing"  # a container that needs streamedge[media]
    HELPER_FAILED = "helper_failed"  # reading it took too long or too much memory, or crashed
    HELPER_NOT_STARTED = "helper_not_started"  # for lack of memory, processes or descriptors


class MediaError(StreamEdgeError):
    """An object cannot be played as media; the message may be sent to the viewer."""

    def __init__(self, fault: MediaFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class ConfigError(StreamEdgeError):
    """A config file is invalid; ``problems`` lists all its mistakes, in file order."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CacheFullError(StreamEdgeError):
    """Neither the disk nor the memory reserved for a full disk can store the bytes."""
