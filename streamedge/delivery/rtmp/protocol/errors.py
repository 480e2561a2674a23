"""The one failure of RTMP's pure layers.

A client that breaks the protocol, lies about lengths or runs over a limit ends in ProtocolError,
whichever layer saw it. Nothing here knows what the connection does about it.
"""

from __future__ import annotations

from streamedge.errors import StreamEdgeError


class ProtocolError(StreamEdgeError):
    """The client's bytes are not RTMP that this server takes; the message fits one log line."""
