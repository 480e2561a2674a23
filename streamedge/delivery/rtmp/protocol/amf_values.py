"""The values of AMF0 and AMF3 in Python, and the limits of both readers.

number, integer float   boolean bool   string, XML str   null None   date Date
object, dictionary dict   associative array EcmaArray   array, vector list
undefined and all that has no use in a command UNDEFINED
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from streamedge.delivery.rtmp.protocol.errors import ProtocolError

NESTING_LIMIT: Final = 16  # objects and arrays within each other
ELEMENTS_LIMIT: Final = 512  # values in one message, at every depth together; clients send 30
STRING_LIMIT_BYTES: Final = 65_535  # of a long string too: longer ones have no use in a command


class AmfError(ProtocolError):
    """The bytes are not AMF or exceed a limit, or AMF0 cannot represent a value."""


class Undefined(Enum):
    """ActionScript's undefined, which is not its null."""

    UNDEFINED = "undefined"


UNDEFINED: Final = Undefined.UNDEFINED


@dataclass(frozen=True, slots=True)
class Date:
    """A moment: milliseconds since 1970, and a time zone that writers should leave at 0 (§2.13)."""

    time_ms: float
    timezone_minutes: int = 0


class EcmaArray(dict[str, "AmfValue"]):
    """An associative array (§2.10). Players want onMetaData as one of these, not as an object."""

    __slots__ = ()


AmfValue: TypeAlias = (
    float
    | bool
    | str
    | Literal[Undefined.UNDEFINED]
    | Date
    | Mapping[str, "AmfValue"]
    | Sequence["AmfValue"]
    | None
)

Buffer: TypeAlias = bytes | bytearray | memoryview
