"""Origins that are S3 buckets."""
