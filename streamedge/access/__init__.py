"""Viewer access: signed URLs and cookies, countries, and client addresses behind proxies."""
