"""Runs a command on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE_S


def terminal_output(words: list[str], folder: Path, *, typed: str = "", **more: str) -> bytes:
    """What ``streamedge WORDS`` prints on a terminal; ``more`` is added to the environment.

    ``typed``: what the user types; without it, standard input is empty and no terminal.
    """
    terminal, end = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", **more}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamedge", *words],
            cwd=folder,
            env=environment,
            stdin=end if typed else subprocess.DEVNULL,
            stdout=end,
            stderr=end,
        )
        os.write(terminal, typed.encode())
    finally:
        os.close(end)
    received = b""
    try:
        while piece := os.read(terminal, 1 << 16):
            received += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
        process.wait(PATIENCE_S)
    return received
