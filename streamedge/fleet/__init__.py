"""The rules of a fleet of edges: entries of the shared log, members, states, ownership. Pure."""
