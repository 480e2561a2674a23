"""The command line. Nothing here runs in an edge."""
