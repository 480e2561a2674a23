"""The fast path: hits whose requests are remembered."""
