"""The cache folder: extents, records, locks, eviction."""
