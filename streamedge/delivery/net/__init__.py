"""Sockets: accepting, TLS, and sending bytes."""
