"""The engine in Redis or Valkey: a stream, hashes, leases and two channels; changes are scripts."""
