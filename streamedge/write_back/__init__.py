"""Writes that are answered before the origin has them: a durable queue, and who empties it."""
