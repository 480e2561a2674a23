"""Writes the generated parts of docs/reference/config.md and docs/reference/cli.md.

``make reference`` runs it. Text outside the markers does not change.
"""

from __future__ import annotations

from pathlib import Path

from streamedge.cli import reference as commands
from streamedge.config import reference as configuration

PAGES = Path(__file__).parents[1] / "docs" / "reference"


def write(page: str, begin: str, end: str, text: str) -> None:
    """Replaces the text between the markers of a page."""
    path = PAGES / page
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


if __name__ == "__main__":
    write("config.md", configuration.BEGIN, configuration.END, configuration.render())
    write("cli.md", commands.BEGIN, commands.END, commands.render())
