"""What operators ask of a running edge, in one order, and what of it is in force."""
