"""Every failure StreamEdge expects, by name.

A failure that a caller is meant to handle is one of these, with the cause kept (``raise … from``).
Anything else that surfaces is a defect. Nothing here logs or decides what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class StreamEdgeError(Exception):
    """Root of all expected failures."""


class OriginFailure(Enum):
    """Why an origin did not give what was asked of it."""

    NOT_FOUND = "not_found"  # 404, 410: the object is not there
    FORBIDDEN = "forbidden"  # 401, 403: the origin will not let the edge have it
    RANGE_OUTSIDE = "range_outside"  # 416: the span lies past the object's end
    CHANGED = "changed"  # 412, or an answer for another version than the one asked for
    UNAVAILABLE = "unavailable"  # 5xx, 429, or an answer that makes no sense
    REFUSED = "refused"  # no connection: refused, unreachable, TLS or name failure
    TIMEOUT = "timeout"  # connected, then silent for too long
    BROKEN = "broken"  # the body ended early, ran over, or the connection was reset

    @property
    def retryable(self) -> bool:
        """Whether asking the same thing again may help."""
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
    """An origin failed; ``failure`` says how, the message says what was seen.

    ``retried``: whoever raised it has asked again already, as often as was allowed. ``status`` is
    what the origin answered, 0 where it was no answer's status that failed; ``fields`` are that
    answer's header fields by lower-case name.
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

    def again(self) -> OriginError:
        """The same failure to raise in one more task: a shared one would gather tracebacks."""
        return OriginError(
            self.failure, str(self), retried=self.retried, status=self.status, fields=self.fields
        )

    @property
    def retryable(self) -> bool:
        """Whether asking the same thing again may help."""
        return self.failure.retryable and not self.retried


class MediaFault(Enum):
    """Why bytes could not be played as media."""

    STRUCTURE_INVALID = "structure_invalid"  # truncated, lying or over a limit
    NO_SUPPORTED_TRACK = "no_supported_track"  # well-formed, but nothing we can carry
    CODED = "coded"  # stored compressed (Content-Encoding), which no player unpacks


class MediaError(StreamEdgeError):
    """An object is not media that can be played; the message is fit for the viewer."""

    def __init__(self, fault: MediaFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class ConfigError(StreamEdgeError):
    """A config file cannot be used; ``problems`` lists every mistake found, in file order."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CacheFullError(StreamEdgeError):
    """Bytes can be kept neither on disk nor in the memory set aside for a full disk."""
