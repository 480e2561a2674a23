"""Warnings about redirects that viewers would not get, or could not follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.cli.fleet.nearest_warnings import nearest_warnings
from streamedge.config.schema.config import Config
from tests.support.certificate_authority import CertificateAuthority
from tests.support.mmdb_file import city, country, mmdb

ALIAS = "cdn.example.com"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A config without anything to warn of."""
    database = tmp_path / "cities.mmdb"
    database.write_bytes(mmdb({"192.0.2.0/24": country("DE") | city(50.0, 8.0)}))
    pair = CertificateAuthority(tmp_path).issue(ALIAS, f"*.{ALIAS}")
    return {
        "edge": {"name": "fra-1", "location": [50.0, 8.0], "addresses": ["192.0.2.1"]},
        "fleet": {"engine": "redis://127.0.0.1:6379/0"},
        "countries": {"database": str(database)},
        "listen": {"https": ["127.0.0.1:8443"]},
        "certificates": [{"certificate": str(pair.certificate), "key": str(pair.key)}],
        "origins": {"main": {"type": "directory", "path": "media"}},
        "distributions": [
            {
                "id": "EWEB",
                "type": "web",
                "origin": "main",
                "aliases": [ALIAS],
                "nearest": True,
            }
        ],
    }


def warnings(document: dict[str, Any]) -> list[str]:
    return list(nearest_warnings(Config.model_validate(document)))


def test_complete_config_has_no_warnings(document: dict[str, Any]) -> None:
    assert warnings(document) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"fleet": {}}, "nearest of EWEB has no effect: fleet.engine is not set"),
        ({"countries": {}}, "set countries.database to a database of cities"),
        ({"countries": {"database": "missing.mmdb"}}, "missing.mmdb: No such file or directory"),
        ({"edge": {"name": "fra-1"}}, "set edge.location and edge.addresses"),
        ({"certificates": []}, f"no certificate is valid for fra-1.{ALIAS}"),
    ],
)
def test_what_is_missing_is_named(
    document: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    [warning] = warnings(document | change)

    assert expected in warning


def test_database_of_countries_is_named(document: dict[str, Any], tmp_path: Path) -> None:
    database = tmp_path / "countries.mmdb"
    database.write_bytes(mmdb({"192.0.2.0/24": country("DE")}))

    [warning] = warnings(document | {"countries": {"database": str(database)}})

    assert "has countries only" in warning


def test_certificate_of_the_alias_alone_is_not_enough(
    document: dict[str, Any], tmp_path: Path
) -> None:
    pair = CertificateAuthority(tmp_path).issue(ALIAS)
    files = [{"certificate": str(pair.certificate), "key": str(pair.key)}]

    [warning] = warnings(document | {"certificates": files})
    assert warning.endswith(f"add one for *.{ALIAS}")

    own = CertificateAuthority(tmp_path).issue(f"fra-1.{ALIAS}")
    files.append({"certificate": str(own.certificate), "key": str(own.key)})
    assert warnings(document | {"certificates": files}) == []


def test_pattern_needs_a_certificate_for_each_host(document: dict[str, Any]) -> None:
    document["distributions"][0]["aliases"] = ["*.example.com"]

    [warning] = warnings(document)

    assert "below the pattern *.example.com" in warning


def test_distribution_without_nearest_has_no_warnings(document: dict[str, Any]) -> None:
    document["distributions"][0]["nearest"] = False

    assert warnings(document | {"fleet": {}, "countries": {}}) == []
