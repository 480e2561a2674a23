"""RTMP: a pure engine, players, and the sessions that join them to sockets."""
