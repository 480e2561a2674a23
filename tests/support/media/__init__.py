"""Media files and what other programs read in them."""
