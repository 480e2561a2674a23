"""What the processes of an edge share, and how they notify each other of changes."""
