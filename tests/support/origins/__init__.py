"""Origins for tests: scripted ones and real S3 servers."""
