"""streamedge/cli/fleet/certificates.py: the CA of a fleet and the certificates of its edges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.cli.fleet.certificates import CertificateFilesError, make_certificate
from streamedge.cli.main import app
from streamedge.config.load import load
from tests.support.patience import PATIENCE_S


def test_certificate_is_accepted_by_the_config_of_its_edge(tmp_path: Path) -> None:
    ca = tmp_path / "fleet-ca.pem"
    result = CliRunner().invoke(app, ["fleet", "certificate", "fra-1", "--ca", str(ca)])
    assert result.exit_code == 0, result.output
    names = ["fleet-ca.pem", "fleet-ca.key", "fra-1.pem", "fra-1.key"]
    assert result.output.splitlines() == [f"Wrote {tmp_path / name}" for name in names]
    config = tmp_path / "config.toml"
    config.write_text(
        '[edge]\nname = "fra-1"\n[listen]\nfleet = "127.0.0.1:7443"\n[fleet]\n'
        'engine = "redis://127.0.0.1:6379/0"\nca = "fleet-ca.pem"\n'
        'certificate = "fra-1.pem"\nkey = "fra-1.key"\n'
    )
    assert load(config).fleet.certificate == tmp_path / "fra-1.pem"


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        files = make_certificate("fra-1", tmp_path / "ca.pem", 30)
    finally:
        os.umask(old_mask)
    modes = {file.name: file.stat().st_mode & 0o777 for file in files}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "fra-1.pem": 0o644, "fra-1.key": 0o600}


def test_second_certificate_uses_the_ca_that_is_there(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    make_certificate("fra-1", ca, 30)
    before = ca.read_bytes()
    assert make_certificate("ams-1", ca, 30) == [tmp_path / "ams-1.pem", tmp_path / "ams-1.key"]
    assert ca.read_bytes() == before
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca)]
    for name in ("fra-1", "ams-1"):
        for purpose in ("sslserver", "sslclient"):
            subprocess.run(
                [*verify, "-purpose", purpose, str(tmp_path / f"{name}.pem")],
                check=True,
                capture_output=True,
            )


def test_certificate_is_refused_with_what_to_do(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with pytest.raises(CertificateFilesError, match="is no name of an edge"):
        make_certificate("../fra-1", ca, 30)
    with pytest.raises(CertificateFilesError, match="the CA has the name"):
        make_certificate("ca", ca, 30)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(CertificateFilesError, match=r"ca\.key is missing"):
        make_certificate("fra-1", ca, 30)
    (tmp_path / "ca.key").write_text("no key")
    with pytest.raises(CertificateFilesError, match="are no CA in PEM"):
        make_certificate("fra-1", ca, 30)


def test_help_of_the_fleet_commands_needs_no_engine() -> None:
    code = (
        "import sys; from streamedge.cli.main import app\n"
        "try: app(['fleet', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'redis' not in sys.modules and 'cryptography' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, timeout=PATIENCE_S
    )
