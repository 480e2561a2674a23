"""Checks that involve several sections of a configuration, or the files that it names."""
