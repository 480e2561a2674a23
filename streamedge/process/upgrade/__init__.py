"""Replacing the program of a running edge, in the new program."""
