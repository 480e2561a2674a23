"""Behaviors and response headers policies."""
