"""Objects kept as extents of chunks, filled on demand and read while they fill."""
