"""From CloudFront's documents to sections of the configuration."""
