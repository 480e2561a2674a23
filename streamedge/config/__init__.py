"""What an operator may say in ``config.toml``; see ``schema`` and ``load``."""
