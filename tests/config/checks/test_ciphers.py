"""Ciphers that the config needs and this system does not have are reported with advice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

WITHOUT_LEGACY_PROVIDER = {**os.environ, "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"}


def check(
    folder: Path, rtmpe: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs ``streamedge check`` in another process, because OpenSSL loads its providers once."""
    (folder / "films").mkdir()
    config = folder / "config.toml"
    config.write_text(
        f'[edge]\nname = "edge"\ncache = "cache"\n[listen]\nrtmpe = {rtmpe}\n'
        '[origins.main]\ntype = "directory"\npath = "films"\n'
    )
    return subprocess.run(
        [sys.executable, "-m", "streamedge", "check", "--config", str(config)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_rtmpe_without_rc4_is_a_mistake(tmp_path: Path) -> None:
    checked = check(tmp_path, "true", WITHOUT_LEGACY_PROVIDER)
    assert checked.returncode != 0
    (line,) = (line for line in checked.stderr.splitlines() if "rtmpe" in line)
    assert "config.toml:5: listen.rtmpe: RTMPE needs RC4" in line
    assert "openssl-provider-legacy" in line


@pytest.mark.parametrize(
    ("rtmpe", "environment"), [("false", WITHOUT_LEGACY_PROVIDER), ("true", dict(os.environ))]
)
def test_config_that_needs_no_missing_cipher_is_valid(
    tmp_path: Path, rtmpe: str, environment: dict[str, str]
) -> None:
    checked = check(tmp_path, rtmpe, environment)
    assert checked.returncode == 0, checked.stderr
