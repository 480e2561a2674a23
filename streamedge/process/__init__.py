"""The processes of an edge, from fork to exit."""
