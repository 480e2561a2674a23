"""Fleets of edges for tests."""
