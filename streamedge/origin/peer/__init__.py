"""Requests of one edge to the caches of the other edges of its fleet."""
