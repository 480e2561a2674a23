"""The schema of the configuration: its tables, keys, types and notations."""
