"""The processes: what the config names, put together and kept running."""
