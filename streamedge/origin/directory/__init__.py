"""Origins that are folders."""
