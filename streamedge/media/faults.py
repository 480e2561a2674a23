"""The error that every parser of this room raises for bytes that are not what they should be.

Owns the shorthand alone: the error itself is ``streamedge.errors.MediaError``.
"""

from __future__ import annotations

from streamedge.errors import MediaError, MediaFault


def invalid(message: str) -> MediaError:
    """The error for bytes that are truncated, lie, or are over a limit; for ``raise``."""
    return MediaError(MediaFault.STRUCTURE_INVALID, message)
