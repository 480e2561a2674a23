"""The lookup of a response: what is stored, who waits, what the origin sends."""
