"""CloudFront's access logs: their formats, the spool of their lines, and their delivery."""
