"""Helper to raise ``MediaError`` for damaged files."""

from __future__ import annotations

from streamedge.errors import MediaError, MediaFault


def invalid(message: str) -> MediaError:
    """The error for bytes that are truncated, contradictory or over a limit; for ``raise``."""
    return MediaError(MediaFault.STRUCTURE_INVALID, message)
