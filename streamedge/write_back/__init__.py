"""Write-back: a durable queue of writes, and the replicator that sends them to their origins."""
