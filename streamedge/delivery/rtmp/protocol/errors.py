"""The only error of the RTMP protocol layers.

All layers raise it for a client that breaks the protocol, sends wrong lengths or exceeds a limit.
"""

from __future__ import annotations

from streamedge.errors import StreamEdgeError


class ProtocolError(StreamEdgeError):
    """The client's bytes are not RTMP that this server accepts; the message fits one log line."""
