"""The commands on the cache."""
