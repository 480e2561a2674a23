"""Origin groups: failover and circuit breakers."""
