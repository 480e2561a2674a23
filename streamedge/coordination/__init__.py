"""What the processes of an edge share, and how they tell each other of changes."""
