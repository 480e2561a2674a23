"""The shape of the configuration."""
