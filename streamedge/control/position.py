"""A position in a control log, as one 64-bit number.

The upper 24 bits are the id of the log, the lower 40 bits an epoch: the number of a row in it. One
number is read and written atomically, so processes share it in mapped memory without a lock.
Positions order events without a clock: a request at a position is older than all later rows. Only
positions in the same log can be compared. A log gets a new id when rows of it were lost, so no
position from before the loss can be mistaken for a newer one.
"""

from __future__ import annotations

import secrets

EPOCH_BITS = 40
LOG_IDS = 1 << 24
UNKNOWN_POSITION = 0
"""No position; no log has the id 0."""


def position_at(log_id: int, epoch: int) -> int:
    """The position of a row in a log."""
    return log_id << EPOCH_BITS | epoch


def log_of(position: int) -> int:
    """The id of the log that a position is in."""
    return int(position) >> EPOCH_BITS


def epoch_of(position: int) -> int:
    """The number of the row that a position is at; 0 before the first."""
    return position & (1 << EPOCH_BITS) - 1


def older_of(one: int, other: int) -> int:
    """The older of two positions; UNKNOWN_POSITION if they are in different logs."""
    return min(one, other) if log_of(one) == log_of(other) else UNKNOWN_POSITION


def new_log_id() -> int:
    """An id that no other log is likely to have."""
    return 1 + secrets.randbelow(LOG_IDS - 1)
