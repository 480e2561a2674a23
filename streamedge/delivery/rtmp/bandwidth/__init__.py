"""How fast a client receives: the rules of a check, and its calls."""
