"""Whether viewers should come to this edge: what health checks get, and who is still served.

``GET /healthz/traffic`` on every HTTP and HTTPS address answers 200 while viewers should come here,
else 503, for every host and before routing: a checker needs no distribution and no access.
"""

from __future__ import annotations

from dataclasses import dataclass

CHECK_PATH = b"/healthz/traffic"


@dataclass(frozen=True, slots=True)
class Traffic:
    """``avoid_reason``: why viewers should not come here; "" while they should.

    ``refusal``: why new requests and new RTMP clients are refused; "" while they are served.
    ``asks_to_reconnect``: whether RTMP clients that can are sent to another edge.
    """

    avoid_reason: str = ""
    refusal: str = ""
    asks_to_reconnect: bool = False


WELCOME = Traffic()
STOPPING = Traffic("the edge is stopping", asks_to_reconnect=True)
