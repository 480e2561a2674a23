"""Hits answered from memory of earlier requests."""
