"""Checks of a configuration that one section alone cannot make."""
