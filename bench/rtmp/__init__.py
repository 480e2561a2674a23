"""Experiments over RTMP."""
