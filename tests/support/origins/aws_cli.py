"""Runs Amazon's ``aws`` command with its own keys and without the user's settings.

def test_it(aws: AwsCli) -> None:
    aws.run("s3", "cp", str(path), "s3://videos/film", endpoint=edge.http(""))
    listing = aws.json("cloudfront", "list-distributions", endpoint=api_url)
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

from tests.support.patience import PATIENCE_S

ACCESS_KEY_ID = "a-client-of-the-edge"
SECRET_ACCESS_KEY = "a-secret-of-the-tests"
REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class AwsCli:
    """The command with an empty home folder; by default with the keys above."""

    folder: Path
    access_key_id: str = ACCESS_KEY_ID
    secret_access_key: str = SECRET_ACCESS_KEY
    region: str = REGION

    def run(
        self, *arguments: str, endpoint: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command; with ``check`` an exit code other than 0 fails the test."""
        endpoint_option = () if endpoint is None else ("--endpoint-url", endpoint.rstrip("/"))
        result = subprocess.run(
            [sys.executable, "-m", "awscli", *arguments, *endpoint_option],
            env=self._environment(),
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert not check or result.returncode == 0, (
            f"aws {arguments}: {result.stdout}{result.stderr}"
        )
        return result

    def json(self, *arguments: str, endpoint: str | None = None) -> Any:
        """The JSON that the command prints; None without output."""
        output = self.run(*arguments, "--output", "json", endpoint=endpoint).stdout
        return json.loads(output) if output.strip() else None

    def configure(self, text: str) -> None:
        """Writes the command's config file."""
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
