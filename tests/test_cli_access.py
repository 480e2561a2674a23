"""``streamedge sign`` and ``streamedge keys``: output and exit codes."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.access.admission import Denied, Grant, SignatureCache, verify
from streamedge.cli.main import app
from tests.support.http.signers import custom_policy, ecdsa_signer, rsa_signer

URL = "https://cdn.example.com/videos/film.mp4"
UNTIL, UNTIL_S = "2100-01-01", 4_102_444_800
SIGNER = rsa_signer("K1")
KEY = ("--key", "site.pem", "--key-id", "K1")

runner = CliRunner()


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the publisher's key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.pem").write_bytes(SIGNER.private_pem)
    return tmp_path


def verified(query: str, cookies: str, resource: str) -> Grant | Denied:
    """The decision of an edge that trusts the key, now."""
    where = ip_address("192.0.2.7")
    return verify(SIGNER.keys, query, cookies, [resource], where, time.time(), SignatureCache())


def test_sign_prints_the_url_that_botocore_signs() -> None:
    result = runner.invoke(app, ["sign", URL, *KEY, "--expires", UNTIL])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == SIGNER.url(URL, expires_s=UNTIL_S) + "\n"


def test_sign_prints_a_stream_name_with_its_policy() -> None:
    name = "mp4:dir/film.mp4?color=red"
    arguments = ["--expires", "2h", "--from", "0", "--ip", "::1", "--ip", "192.0.2.0/24"]
    result = runner.invoke(app, ["sign", name, *KEY, *arguments, "--hash", "sha256"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{name}&Policy=")
    assert result.stdout.endswith("&Key-Pair-Id=K1&Hash-Algorithm=SHA256\n")
    query = result.stdout.strip().partition("?color=red&")[2]
    assert isinstance(verified(query, "", "dir/film.mp4?color=red"), Grant)


def test_sign_prints_cookies_that_the_edge_accepts() -> None:
    arguments = ["sign", "https://cdn.example.com/*", *KEY, "--expires", "2h", "--cookies"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert isinstance(verified("", result.stdout.strip(), URL), Grant)


def test_sign_uses_a_policy_file(folder: Path) -> None:
    policy = custom_policy(URL, UNTIL_S, networks="192.0.2.0/24")
    (folder / "policy.json").write_text(policy)
    result = runner.invoke(app, ["sign", URL, *KEY, "--policy", "policy.json"])
    assert result.stdout == SIGNER.url(URL, policy=policy) + "\n"


def test_sign_prints_json() -> None:
    arguments = ["sign", URL, *KEY, "--expires", UNTIL, "--json"]
    signed = json.loads(runner.invoke(app, arguments).stdout)
    assert signed["signed"] == SIGNER.url(URL, expires_s=UNTIL_S)
    assert signed["fingerprint"] == SIGNER.public.fingerprint
    cookies = json.loads(runner.invoke(app, [*arguments, "--cookies"]).stdout)
    assert cookies["signed"] is None
    assert cookies["cookies"]["CloudFront-Expires"] == str(UNTIL_S)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([URL, *KEY, "--expires", "yesterday"], "streamedge: expected seconds of the epoch"),
        ([URL, *KEY, "--expires", "2020-01-01"], "streamedge: the expiry time is in the past"),
        (["https://a/*", *KEY, "--expires", "2h"], "use --cookies"),
        (["mp4:*", *KEY, "--expires", "2h"], "is a pattern"),
        ([URL, "--key", "none.pem", "--key-id", "K1", "--expires", "2h"], "none.pem: No such file"),
        ([URL, *KEY, "--policy", "none.json"], "none.json: No such file"),
        ([URL, *KEY], "give --expires"),
        ([URL, *KEY, "--expires", "2h", "--policy", "x"], "give --expires"),
        ([URL, *KEY, "--policy", "x", "--ip", "::1"], "give --expires"),
        ([URL, *KEY, "--expires", "2h", "--hash", "md5"], "--hash"),
        ([URL, "--expires", "2h"], "--key"),
    ],
)
def test_sign_exits_with_2_and_a_reason(arguments: list[str], expected: str) -> None:
    result = runner.invoke(app, ["sign", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr


CONFIG = """\
[public_keys.K1]
file = "site.pub.pem"

[public_keys.K2]
pem = '''
{pem}'''

[public_keys.KOLD]
file = "site.pub.pem"

[key_groups.site]
keys = ["K1", "K2"]

[key_groups.films]
keys = ["K2"]

[origins.samples]
type = "directory"
path = "media"

[[distributions]]
id = "EWEB"
type = "web"
origin = "samples"
trusted_key_groups = ["site"]

[[distributions.behaviors]]
path = "films/*"
trusted_key_groups = ["films"]

[[distributions.behaviors]]
path = "open/*"
trusted_key_groups = []

[[distributions.behaviors]]
path = "like-all/*"

[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "samples"
trusted_key_groups = ["films"]
"""


@pytest.fixture(name="config")
def _config(folder: Path) -> Path:
    """A config with keys."""
    (folder / "media").mkdir()
    (folder / "site.pub.pem").write_bytes(SIGNER.public_pem)
    path = folder / "config.toml"
    path.write_text(CONFIG.format(pem=ecdsa_signer("K2").public_pem.decode()))
    return path


def test_keys_are_listed_with_the_distributions_that_trust_them(config: Path) -> None:
    assert config.exists()
    result = runner.invoke(app, ["keys", "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    rsa = {"algorithm": "RSA-2048", "fingerprint": SIGNER.public.fingerprint}
    ecdsa = {
        "algorithm": "ECDSA P-256",
        "fingerprint": ecdsa_signer("K2").public.fingerprint,
    }
    same = {"problem": None, "made_in": "config.toml"}
    assert json.loads(result.stdout) == [
        {
            "id": "K1",
            **rsa,
            "groups": ["site"],
            "trusted_by": ["EWEB", "EWEB like-all/*"],
            **same,
        },
        {
            "id": "K2",
            **ecdsa,
            "groups": ["site", "films"],
            "trusted_by": ["EWEB", "EWEB films/*", "EWEB like-all/*", "ESTREAM"],
            **same,
        },
        {"id": "KOLD", **rsa, "groups": [], "trusted_by": [], **same},
    ]


def test_keys_are_shown_as_a_table(config: Path) -> None:
    result = runner.invoke(app, ["keys", "--config", str(config)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for words in (
        "K1",
        "RSA-2048",
        "ECDSA P-256",
        "site, films",
        "ESTREAM",
        "no distribution",
        "none",
    ):
        assert words in result.stdout
    assert SIGNER.public.fingerprint in result.stdout


def test_keys_without_any_prints_how_to_declare_one(config: Path) -> None:
    config.write_text(
        '[origins.samples]\ntype = "directory"\npath = "media"\n\n'
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "samples"\n'
    )
    result = runner.invoke(app, ["keys"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "No public keys" in result.stdout
    assert "[public_keys.ID]" in result.stdout


def test_keys_with_an_invalid_config_exits_with_2(config: Path) -> None:
    config.write_text("[key_groups.site]\nkeys = ['K9']")
    result = runner.invoke(app, ["keys"])
    assert result.exit_code == 2
    assert "K9" in result.stderr or "key_groups" in result.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "sign",
            ["--key", "--expires", "--policy", "--from", "--ip", "--cookies", "2h", "Example:"],
        ),
        ("keys", ["--config", "--json", "Example:", "trusted_key_groups", "reload"]),
    ],
)
def test_help_has_options_and_an_example(command: str, expected: list[str]) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    for words in expected:
        assert words in result.stdout
