"""One viewer of a worker, as operators see it: an RTMP session, or an HTTP viewer of a site."""

from __future__ import annotations

from typing import NamedTuple

TEXT_CHARACTERS_MAX = 256  # viewers choose names and agents; longer ones are cut

ENDED_BY_OPERATOR = "ended by an operator"  # the reason in the log


class ViewerRow(NamedTuple):
    """A viewer now.

    ``id``: of an RTMP session the one in the log; of an HTTP viewer the same in all workers.
    ``kind``: "rtmp" or "http". ``client``: address and port of the connection, "" for several.
    ``site``: the host of HTTP, the application of RTMP. ``object``: the path or stream name of its
    newest request.
    ``state``: of a play, or "connected"; of HTTP "sending" or "seen". ``position_s``: the time of
    the medium that the viewer sees. ``requests``: responses and plays. ``age_s``: since it
    connected or was seen first; ``idle_s``: since it was seen last.
    """

    id: str
    kind: str
    protocol: str
    address: str
    client: str
    distribution: str
    site: str
    object: str
    agent: str
    state: str
    position_s: float | None
    sent_bytes: int
    requests: int
    age_s: float
    idle_s: float


RowStart = tuple[str, str, str, str, str, str, str]
"""The members of a row before ``object``."""


def cut(text: str) -> str:
    """At most TEXT_CHARACTERS_MAX characters of a text."""
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"
