"""Engines of a shared log for tests: a real Redis server, and a link to it that can fail."""
