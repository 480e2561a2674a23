"""The ``aws`` command as tests run it: Amazon's own, with keys of its own and nobody's settings.

def test_it(aws: AwsCli) -> None:
    aws.run("s3", "cp", str(path), "s3://videos/film", endpoint=edge.http(""))
    said = aws.json("cloudfront", "list-distributions", endpoint=api_url)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120.0  # a command that takes longer has failed
ACCESS_KEY_ID = "a-client-of-the-edge"
SECRET_ACCESS_KEY = "known-to-nobody-else"
REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class AwsCli:
    """The command with an empty home ``folder``; by default with the keys above."""

    folder: Path
    access_key_id: str = ACCESS_KEY_ID
    secret_access_key: str = SECRET_ACCESS_KEY
    region: str = REGION

    def run(
        self, *arguments: str, endpoint: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end; ``check``: an exit code but 0 fails the test with what was said."""
        where = () if endpoint is None else ("--endpoint-url", endpoint.rstrip("/"))
        done = subprocess.run(
            [sys.executable, "-m", "awscli", *arguments, *where],
            env=self._environment(),
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"aws {arguments}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str, endpoint: str | None = None) -> Any:
        """What it prints, which is JSON; None where it prints nothing."""
        printed = self.run(*arguments, "--output", "json", endpoint=endpoint).stdout
        return json.loads(printed) if printed.strip() else None

    def configure(self, text: str) -> None:
        """Its config file."""
        (self.folder / "config").write_text(text)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "AWS_CONFIG_FILE": str(self.folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "credentials"),
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }


@pytest.fixture
def aws(tmp_path_factory: pytest.TempPathFactory) -> AwsCli:
    """The command."""
    return AwsCli(tmp_path_factory.mktemp("aws"))
