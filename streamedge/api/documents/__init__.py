"""CloudFront's documents: their shapes, defaults and inventory."""
