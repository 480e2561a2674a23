"""The ``streamedge fleet`` commands."""
