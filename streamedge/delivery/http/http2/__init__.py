"""HTTP/2 towards viewers: the engine, the connection, its streams, and the encoding of heads."""
