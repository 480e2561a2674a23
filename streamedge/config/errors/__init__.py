"""Errors in a configuration file: where they are and how they are told."""
