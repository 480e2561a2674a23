"""The RTMP protocol, without I/O."""
