"""Origins that are HTTP servers."""
