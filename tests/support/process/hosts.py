"""Runs programs that resolve host names as the test says.

A mount namespace of the program has another /etc/hosts, so that programs which take no addresses,
such as ffmpeg, follow redirects between names.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.patience import PATIENCE_S

_SCRIPT = 'mount --bind "$0" /etc/hosts && exec "$@"'


def run_with_hosts(
    folder: Path, hosts: Mapping[str, str], *command: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in which ``hosts`` have these addresses; its exit code is 0."""
    file = folder / "hosts"
    lines = [f"{address} {name}\n" for name, address in hosts.items()]
    file.write_text("127.0.0.1 localhost\n" + "".join(lines))
    options = ("--mount",) if os.geteuid() == 0 else ("--mount", "--user", "--map-root-user")
    completed = subprocess.run(
        ["unshare", *options, "sh", "-c", _SCRIPT, str(file), *command],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert completed.returncode == 0, completed.stderr.decode()[-4000:]
    return completed
