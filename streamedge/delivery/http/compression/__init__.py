"""Compression of cached objects, and content negotiation."""
