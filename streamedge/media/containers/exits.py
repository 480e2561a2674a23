"""Exit codes of the media helper."""

from __future__ import annotations

EXIT_MEMORY = 77  # it needed more memory than it may have
