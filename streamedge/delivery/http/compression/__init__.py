"""Compressed forms of responses."""
