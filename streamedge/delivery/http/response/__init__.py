"""From what the cache has to a response."""
