"""The log that the edges of a fleet share: engines, and the tasks that append and follow."""
