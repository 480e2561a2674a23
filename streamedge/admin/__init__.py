"""The routes of the admin address."""
