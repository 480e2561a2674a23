"""When the certificates of a config expire."""

from __future__ import annotations

import time
from pathlib import Path

from streamedge.config.load import load
from streamedge.process.operators.certificate_expiry import CertificateExpiries
from tests.support.certificate_authority import CertificateAuthority


def test_each_file_has_its_names_and_end_or_a_problem(tmp_path: Path) -> None:
    pair = CertificateAuthority(tmp_path).issue("www.example", "*.example")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n'
        + f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n' * 2
    )
    loaded = load(config)
    expiries = CertificateExpiries(lambda: loaded)
    (one,) = expiries.read()
    assert (one.certificate, one.names) == (str(pair.certificate), ("www.example", "*.example"))
    assert one.expires_s is not None
    assert one.expires_s > time.time()
    pair.certificate.write_text("no certificate")
    (one,) = expiries.read()
    assert one.expires_s is None
    assert one.problem
