"""Behaviors, cache policies, origin request policies and response headers policies."""
