"""From a parsed request to its route and its authorization."""
