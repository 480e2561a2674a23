"""The commands that show a running edge."""
