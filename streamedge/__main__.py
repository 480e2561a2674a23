"""``python -m streamedge``: the same as the ``streamedge`` command."""

from __future__ import annotations

from streamedge.cli.main import main

if __name__ == "__main__":
    main()
