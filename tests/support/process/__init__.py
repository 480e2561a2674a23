"""Processes that tests run, and what they see of them."""
