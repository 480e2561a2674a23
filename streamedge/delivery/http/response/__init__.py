"""Building responses: conditions, ranges, headers, framing, log lines."""
