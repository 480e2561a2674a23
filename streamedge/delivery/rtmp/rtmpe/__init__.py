"""RTMPE: RTMP encrypted with keys of the handshake, for old clients; it protects nothing."""
