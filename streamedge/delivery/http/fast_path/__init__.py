"""The fast path: responses to requests whose decisions are remembered."""
