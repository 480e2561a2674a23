"""Clients, media and edges for tests over RTMP."""
