"""A real browser: Chromium without a window loads a page and prints its document."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.certificate_authority import Pair
from tests.support.patience import PATIENCE_S

VIRTUAL_TIME_MS = 20_000  # of the page's clock; it stands still while the network is busy


def load_page(url: str, host: str, pair: Pair, profile: Path) -> str:
    """The document of ``url`` after its scripts have run. ``host`` is resolved to 127.0.0.1.

    ``pair`` is the certificate that the browser trusts, ``profile`` an empty folder.
    """
    return load_page_of({host: "127.0.0.1"}, url, pair, profile)


def load_page_of(hosts: Mapping[str, str], url: str, pair: Pair, profile: Path) -> str:
    """As ``load_page``; ``hosts`` are the addresses of names."""
    rules = ", ".join(f"MAP {host} {address}" for host, address in hosts.items())
    program = shutil.which("chromium")
    assert program is not None, "chromium is missing: tools/install_programs.sh installs it"
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    command = [
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--no-proxy-server", f"--user-data-dir={profile}"),
        f"--host-resolver-rules={rules}",
        f"--ignore-certificate-errors-spki-list={b64encode(sha256(key).digest()).decode()}",
        f"--virtual-time-budget={VIRTUAL_TIME_MS}",
        *("--dump-dom", url),
    ]
    result = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()
