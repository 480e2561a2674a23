"""A position in the shared log of a fleet, as one number that only grows.

The lower 40 bits are a sequence number, which has no gaps within a line; the upper bits are the
number of the line. A new line begins when the engine has lost entries (a failover to a replica that
was behind, an empty engine): its positions are newer than all positions of earlier lines. In the
engine and in messages a position is written "LINE-SEQUENCE", as the ids of Redis Streams.
"""

from __future__ import annotations

import re

SEQUENCE_BITS = 40
LINES = 1 << 22  # so that a position is a positive 63-bit number
START = 0
"""Before the first entry."""

_TEXT = re.compile(r"(\d{1,7})-(\d{1,13})", re.ASCII)


def position_at(line: int, sequence: int) -> int:
    """The position of an entry in a line."""
    return line << SEQUENCE_BITS | sequence


def line_of(position: int) -> int:
    """The line that a position is in."""
    return position >> SEQUENCE_BITS


def sequence_of(position: int) -> int:
    """The number of the entry in its line; 0 for the entry that began the line."""
    return position & (1 << SEQUENCE_BITS) - 1


def format_position(position: int) -> str:
    """A position as the engine has it: "3-1042"."""
    return f"{line_of(position)}-{sequence_of(position)}"


def parse_position(text: str) -> int:
    """Parses what ``format_position`` writes. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None or int(match[1]) >= LINES or int(match[2]) >= 1 << SEQUENCE_BITS:
        raise ValueError(f"{text!a} is not a position of the shared log")
    return position_at(int(match[1]), int(match[2]))
