"""Errors in a configuration file: their location and their text."""
