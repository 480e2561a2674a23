"""DNS servers and clients for tests."""
