"""How the last upgrade went, in memory that the processes of before and after it share.

The supervisor writes it; the control process answers ``GET /upgrade`` from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from streamedge.ops.shared_buffer import SharedBuffer


class UpgradeState(StrEnum):
    """NONE: there was no upgrade since the edge was started. REFUSED and FAILED have reasons.

    STARTING: the new program starts its workers. RETIRING: it serves, and workers from before it
    still serve their viewers. DONE: these have ended.
    """

    NONE = "none"
    TRYING = "trying"
    STARTING = "starting"
    RETIRING = "retiring"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """``attempts``: how many upgrades were requested; this is the last of them."""

    attempts: int = 0
    state: UpgradeState = UpgradeState.NONE
    reasons: tuple[str, ...] = ()


class UpgradeStatus:
    """Created before the processes are forked. ``descriptors``: those of an earlier program."""

    def __init__(self, descriptors: Sequence[int] = ()) -> None:
        self._buffer = (
            SharedBuffer.adopt(descriptors) if descriptors else SharedBuffer("streamedge-upgrade")
        )

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those of the memory."""
        return self._buffer.descriptors

    def write(self, upgrade: Upgrade) -> None:
        """Replaces the status. Raises OSError."""
        self._buffer.write(json.dumps(asdict(upgrade)).encode())

    def read(self) -> Upgrade:
        """The status now. Raises OSError."""
        text = self._buffer.read()
        if not text:
            return Upgrade()
        document = json.loads(text)
        state, reasons = UpgradeState(document["state"]), tuple(document["reasons"])
        return Upgrade(document["attempts"], state, reasons)

    def close(self) -> None:
        self._buffer.close()
