"""Journeys: operators at the admin address."""
