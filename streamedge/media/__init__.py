"""Media as FLV tags: indexes, packaging, and runs that a player can send."""
