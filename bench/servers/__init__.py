"""The servers that are measured, and their origins."""
