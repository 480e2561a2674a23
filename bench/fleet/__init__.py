"""Benchmarks of a fleet of edges."""
