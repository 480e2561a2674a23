"""A viewer's HTTP connection: reading requests, sending responses."""
