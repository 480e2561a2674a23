"""The configuration file ``config.toml``: its schema, its checks and its errors."""
