"""HTTP: the short lane for fresh hits, and the application behind it."""
