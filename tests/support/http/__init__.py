"""Viewers, servers and edges for tests over HTTP."""
