"""CloudFront's own API, so that scripts and clients made for it drive this edge."""
