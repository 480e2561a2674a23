"""The manual page names every command, and man accepts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from streamedge.cli.reference import commands
from tests.support.patience import PATIENCE_S

TOOL = Path(__file__).parents[2] / "tools" / "write_man_page.py"


def test_page_names_every_command_and_has_no_warning(tmp_path: Path) -> None:
    page = tmp_path / "streamedge.1"
    generated = subprocess.run(
        [sys.executable, str(TOOL)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    page.write_text(generated.stdout)
    shown = subprocess.run(
        ["man", "--warnings=all", "--local-file", str(page)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MAN_KEEP_STDERR": "1"},
    )
    assert shown.stderr == ""
    for words, _command in commands():
        assert words in shown.stdout
    assert "\\[" not in shown.stdout  # the terminal's markup needs the backslash, a page does not
    assert "[admin.tokens]" in shown.stdout
