"""Access in the config: it loads, or each mistake is reported with its line."""

from __future__ import annotations

import pickle
from io import StringIO
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console

from streamedge.cli.config_summary import summary
from streamedge.config.load import load
from streamedge.config.schema.config import Config, RtmpDistributionConfig, WebDistributionConfig
from streamedge.config.schema.countries import ALL_COUNTRIES, CountryList
from streamedge.errors import ConfigError
from tests.support.mmdb_file import country, mmdb

SECRET = "hunter2-wJalrXUtnFEMI"
WHOLE = f"""
[listen]
proxies = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]
proxy_protocol = ["127.0.0.1:8080", "127.0.0.1:1935"]
[limits]
http_connections_per_address = 100
rtmp_connections_per_address = 10
signature = "16KiB"
api_body = "2MiB"
invalidations = 500
[public_keys.KRSA]
file = "keys/rsa.pem"
[public_keys.KEC]
pem = '''
@EC@'''
[key_groups.site]
keys = ["KRSA", "KEC"]
[countries]
database = "country.mmdb"
unknown = "deny"
[api]
keys = {{ AKIAEDGE = "{SECRET}" }}
[origins.folder]
type = "directory"
path = "media"
[[distributions]]
id = "EWEB"
type = "web"
origin = "folder"
enabled = false
trusted_key_groups = ["site"]
countries = {{ allow = ["de", "FR"], unknown = "allow" }}
cache_tag_header = "Cache-Tag"
  [[distributions.behaviors]]
  path = "open/*"
  trusted_key_groups = []
  countries = {{ deny = [] }}
  [[distributions.behaviors]]
  path = "same/*"
[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "folder"
trusted_key_groups = ["site"]
countries = {{ deny = ["US"] }}
pages = ["https://www.example.com/*"]
"""


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    (folder / "keys").mkdir()
    (folder / "media").mkdir()
    keys = folder / "keys"
    (keys / "rsa.pem").write_text(pem(rsa.generate_private_key(65537, 2048).public_key()))
    (keys / "ec.pem").write_text(pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    (keys / "p384.pem").write_text(pem(ec.generate_private_key(ec.SECP384R1()).public_key()))
    (keys / "ed.pem").write_text(pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    (folder / "country.mmdb").write_bytes(mmdb({"192.0.2.0/24": country("DE")}))
    (folder / "text.mmdb").write_text("no database\n")
    return folder


def read(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text.replace("@EC@", (folder / "keys/ec.pem").read_text()))
    return load(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    start = f"{folder}/config.toml:"
    return [
        problem.removeprefix(start).replace(f"{folder}/", "") for problem in caught.value.problems
    ]


def test_whole_access_config_loads(folder: Path) -> None:
    config = read(folder, WHOLE)
    assert config.listen.proxies == tuple(
        map(ip_network, ("10.0.0.0/8", "fd00::/8", "192.0.2.7/32"))
    )
    assert config.listen.proxy_protocol == (("127.0.0.1", 8080), ("127.0.0.1", 1935))
    limits = config.limits
    assert (limits.http_connections_per_address, limits.rtmp_connections_per_address) == (100, 10)
    assert (limits.signature, limits.api_body, limits.invalidations) == (16 << 10, 2 << 20, 500)
    assert config.public_keys["KRSA"].file == folder / "keys/rsa.pem"
    assert config.public_keys["KEC"].pem.startswith("-----BEGIN PUBLIC KEY-----")
    assert config.key_groups["site"].keys == ("KRSA", "KEC")
    assert config.countries.database == folder / "country.mmdb"
    assert config.countries.unknown == "deny"
    assert config.api.keys["AKIAEDGE"].get_secret_value() == SECRET
    web, rtmp = config.distributions
    assert isinstance(web, WebDistributionConfig)
    assert isinstance(rtmp, RtmpDistributionConfig)
    assert (web.enabled, rtmp.enabled) == (False, True)
    assert web.cache_tag_header == "Cache-Tag"
    assert rtmp.countries == CountryList(("US",))
    assert rtmp.trusted_key_groups == ("site",)
    assert rtmp.pages == ("https://www.example.com/*",)
    assert SECRET not in repr(config)


def test_behavior_overrides_or_inherits_access_rules(
    folder: Path,
) -> None:
    web = read(folder, WHOLE).distributions[0]
    assert isinstance(web, WebDistributionConfig)
    opened, same = map(web.rules_for, web.behaviors)
    assert (opened.trusted_key_groups, opened.countries) == ((), ALL_COUNTRIES)
    assert same.trusted_key_groups == ("site",)
    assert same.countries == CountryList(("DE", "FR"), True, "allow")


def test_summary_shows_access_rules_without_secrets(folder: Path) -> None:
    console = Console(file=StringIO(), width=240, markup=False)
    with console.capture() as captured:
        for table in summary(read(folder, WHOLE)):
            console.print(table)
    text = captured.get()
    for expected in (
        "none: not enabled",
        'signed by site, countries { deny = ["US"] }',
        'signed by site, countries { allow = ["DE", "FR"], unknown = "allow" }',
    ):
        assert expected in text
    assert SECRET not in text


def test_config_survives_pickling(folder: Path) -> None:
    config = read(folder, WHOLE)
    assert pickle.loads(pickle.dumps(config)) == config


WEB = (
    '[origins.folder]\ntype = "directory"\npath = "media"\n'
    '[[distributions]]\nid = "E"\ntype = "web"\norigin = "folder"\n'  # lines 1 to 7
)
KEY = '[public_keys.K1]\nfile = "keys/rsa.pem"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Keys and groups.
        ("[public_keys.K1]\n", ["1: public_keys.K1.file: missing; a key needs file or pem"]),
        (
            '[public_keys.K1]\nfile = "keys/rsa.pem"\npem = """@EC@"""\n',
            ["3: public_keys.K1.pem: file has the key already; use one of the two"],
        ),
        (
            '[public_keys.K1]\nfile = "keys/none.pem"\n',
            ["2: public_keys.K1.file: expected a PEM file, found nothing at keys/none.pem"],
        ),
        *(
            (
                f'[public_keys.K1]\nfile = "{name}"\n',
                [
                    "2: public_keys.K1.file: expected the PEM of a public key, RSA or ECDSA on"
                    f" P-256, found something else in {name}"
                ],
            )
            for name in ("keys/p384.pem", "keys/ed.pem", "text.mmdb")
        ),
        (
            '[public_keys.K1]\npem = "-----BEGIN"\n',
            [
                "2: public_keys.K1.pem: expected the PEM of a public key, RSA or ECDSA on P-256,"
                " found something else"
            ],
        ),
        (
            KEY + '[key_groups.g]\nkeys = ["K2"]\n',
            ['4: key_groups.g.keys: no public key has the name "K2"; did you mean "K1"?'],
        ),
        (
            KEY + '[key_groups.g]\nkeys = ["K1", "K1"]\n',
            ['4: key_groups.g.keys: the public key "K1" is listed twice'],
        ),
        (
            WEB + 'trusted_key_groups = ["site"]\n',
            [
                '8: distributions[0].trusted_key_groups: no key group has the name "site";'
                " known under [key_groups]: none"
            ],
        ),
        (
            WEB + '[[distributions.behaviors]]\npath = "a"\ntrusted_key_groups = ["site"]\n',
            [
                "10: distributions[0].behaviors[0].trusted_key_groups: no key group has the name"
                ' "site"; known under [key_groups]: none'
            ],
        ),
        # Countries.
        (
            WEB + 'countries = { allow = ["DE"] }\n',
            [
                "8: distributions[0].countries: viewers' countries cannot be looked up:"
                " countries.database is missing"
            ],
        ),
        (
            WEB + 'countries = { allow = ["DE"], deny = ["US"] }\n',
            [
                '8: distributions[0].countries: expected { allow = ["DE", "FR"] } or'
                ' { deny = ["US"] }, found both allow and deny'
            ],
        ),
        (
            WEB + 'countries = { deny = ["DEU"] }\n',
            [
                "8: distributions[0].countries: expected two-letter country codes, such as"
                ' "DE", found "DEU"'
            ],
        ),
        (
            '[countries]\ndatabase = "none.mmdb"\n',
            ["2: countries.database: expected an MMDB file, found nothing at none.mmdb"],
        ),
        (
            f'[countries]\ndatabase = "{"n" * 300}"\n',
            [
                f"2: countries.database: expected an MMDB file, but {'n' * 300} cannot be read:"
                " File name too long"
            ],
        ),
        (
            '[countries]\ndatabase = "text.mmdb"\n',
            [
                "2: countries.database: expected an MMDB file, found another at text.mmdb: it has"
                " no MMDB metadata"
            ],
        ),
        # Proxies.
        (
            '[listen]\nproxies = ["10.0.0.1/8"]\n',
            [
                "2: listen.proxies[0]: expected a network or an address such as"
                ' "10.0.0.0/8", "fd00::/8" or "10.1.2.3", found "10.0.0.1/8", which has bits set'
                " beyond its prefix"
            ],
        ),
        (
            '[listen]\nproxies = ["10.0.0.1"]\nproxy_protocol = [":8080"]\n',
            [
                "3: listen.proxy_protocol[0]: no listener has the address 0.0.0.0:8080; known:"
                ' "127.0.0.1:8080", "127.0.0.1:1935"'
            ],
        ),
        (
            '[listen]\nproxy_protocol = ["127.0.0.1:8080"]\n',
            ["2: listen.proxy_protocol: no PROXY header would be trusted: listen.proxies is empty"],
        ),
        # The API's keys.
        (
            '[api]\nkeys = { "A B" = "secret" }\n',
            [
                '2: api.keys: expected a table of keys, such as { AKIAEDGE = "its secret" };'
                ' a key\'s id has 1 to 128 letters, digits, "_" or "-"'
            ],
        ),
        (
            '[api]\nkeys = { AKIA = "" }\n',
            ['2: api.keys: expected 1 to 1024 characters as the secret of "AKIA"'],
        ),
        (
            f'[api]\nkeys = {{ AKIA = ["{SECRET}"] }}\n',
            ['2: api.keys: expected 1 to 1024 characters as the secret of "AKIA"'],
        ),
        (
            f'[api]\nkeys = "{SECRET}"\n',
            [
                '2: api.keys: expected a table of keys, such as { AKIAEDGE = "its secret" },'
                " found a string"
            ],
        ),
        # Several at once, in the file's order.
        (
            '[key_groups.g]\nkeys = ["K"]\n[api]\nkey = 1\n',
            [
                '2: key_groups.g.keys: no public key has the name "K"; known under [public_keys]:'
                " none",
                '4: api.key: unknown key; did you mean "keys"?',
            ],
        ),
    ],
)
def test_mistakes_are_reported_with_their_line_and_text(
    folder: Path, text: str, expected: list[str]
) -> None:
    assert problems(folder, text) == expected
