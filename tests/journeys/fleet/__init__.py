"""Journeys through several real edges."""
