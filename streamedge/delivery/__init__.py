"""Delivery to viewers over HTTP and RTMP, and the connections below both."""
