"""HTTP delivery: the server, the request handler and the fast path for fresh hits."""
