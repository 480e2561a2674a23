"""HTTP delivery: the server, the connections of each HTTP version, the request handler."""
