"""One stream of a session: its playlist, its player, and the pump that sends its media."""
