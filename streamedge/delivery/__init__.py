"""Towards viewers: the byte mover, HTTP (``web``) and RTMP (``rtmp``)."""
