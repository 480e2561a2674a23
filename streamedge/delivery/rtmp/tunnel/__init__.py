"""RTMPT: RTMP in HTTP requests, for networks that allow only HTTP."""
