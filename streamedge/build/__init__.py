"""Builds the objects that serve a config. Only this layer imports concrete origins."""
