"""HTTP/1.1 towards viewers: the connection, its states, and the encoding of heads and bodies."""
