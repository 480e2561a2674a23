"""The server of the fleet's other edges: this edge's cache as a parent of theirs."""
