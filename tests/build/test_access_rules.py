"""Access rules of a config, and the RTMP distributions built with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.access.admission import AccessRules, CountryRule
from streamedge.access.keys import KeyFileError
from streamedge.build.access_rules import access_rules
from streamedge.build.origins import bind_origins
from streamedge.build.rtmp import rtmp_distributions
from streamedge.config.schema.config import Config
from streamedge.config.schema.countries import ALL_COUNTRIES, CountryList
from streamedge.delivery.rtmp.streams import RtmpDistribution
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from tests.support.rtmp.rtmp_signer import ecdsa_signer, rsa_signer

OLD, NEW = rsa_signer("KOLD"), ecdsa_signer("KNEW")
KEYS: dict[str, Any] = {
    "public_keys": {"KOLD": {"pem": OLD.pem}, "KNEW": {"pem": NEW.pem}},
    "key_groups": {
        "site": {"keys": ["KOLD", "KNEW"]},
        "new": {"keys": ["KNEW"]},
        "none": {"keys": []},
    },
}


def test_access_rules_without_key_groups_need_no_signature() -> None:
    assert access_rules(Config.model_validate(KEYS), (), ALL_COUNTRIES) == AccessRules(None, None)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (("site",), ["KOLD", "KNEW"]),
        (("new",), ["KNEW"]),
        (("new", "site"), ["KNEW", "KOLD"]),
        (("none",), []),
    ],
)
def test_access_rules_have_the_keys_of_their_groups(
    groups: tuple[str, ...], names: list[str]
) -> None:
    keys = access_rules(Config.model_validate(KEYS), groups, ALL_COUNTRIES).keys
    assert keys is not None
    assert list(keys) == names
    assert {"KOLD": OLD.public_key, "KNEW": NEW.public_key}.items() >= keys.items()


def test_key_file_is_read_again_for_each_config(tmp_path: Path) -> None:
    file = tmp_path / "site.pem"
    config = Config.model_validate(
        {"public_keys": {"K": {"file": str(file)}}, "key_groups": {"site": {"keys": ["K"]}}}
    )
    for signer in (rsa_signer("K"), ecdsa_signer("K")):
        file.write_text(signer.pem)
        first, second = (access_rules(config, ("site",), ALL_COUNTRIES).keys for _ in range(2))
        assert first is not None
        assert second is not None
        assert first == {"K": signer.public_key}
        assert first["K"] is second["K"]


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_key_that_cannot_be_read_raises_with_its_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "site.pem"
    if content is not None:
        file.write_text(content)
    config = Config.model_validate(
        {"public_keys": {"K": {"file": str(file)}}, "key_groups": {"site": {"keys": ["K"]}}}
    )
    with pytest.raises(KeyFileError, match="public key K: "):
        access_rules(config, ("site",), ALL_COUNTRIES)


@pytest.mark.parametrize(
    ("countries", "unknown", "rule"),
    [
        (ALL_COUNTRIES, "deny", None),
        (CountryList(("DE",)), "allow", CountryRule(frozenset({"DE"}), False, True)),
        (CountryList(("DE",)), "deny", CountryRule(frozenset({"DE"}), False, False)),
        (CountryList(("DE",), True), "deny", CountryRule(frozenset({"DE"}), True, False)),
        (CountryList(("DE",), True, "allow"), "deny", CountryRule(frozenset({"DE"}), True, True)),
        (CountryList((), False, "deny"), "allow", CountryRule(frozenset(), False, False)),
    ],
)
def test_country_list_becomes_a_country_rule(
    countries: CountryList, unknown: str, rule: CountryRule | None
) -> None:
    config = Config.model_validate({"countries": {"unknown": unknown}})
    assert access_rules(config, (), countries) == AccessRules(None, rule)


def distributions_of(tmp_path: Path, **keys: object) -> list[RtmpDistribution]:
    """The distributions of any host, for a distribution with these keys."""
    config = Config.model_validate(
        {
            **KEYS,
            "origins": {"films": {"type": "directory", "path": str(tmp_path)}},
            "distributions": [{"id": "E", "type": "rtmp", "origin": "films", **keys}],
        }
    )
    counts = Counts()
    log = open_log(str(tmp_path / "log"), "test")
    return list(rtmp_distributions(config, bind_origins(config, log, counts)).find("film.example"))


def test_rtmp_distribution_has_its_access_rules_and_pages(tmp_path: Path) -> None:
    (distribution,) = distributions_of(
        tmp_path,
        trusted_key_groups=["new"],
        countries={"deny": ["FR"]},
        pages=["https://www.example.com/*"],
    )
    assert distribution.access == AccessRules(
        {"KNEW": NEW.public_key}, CountryRule(frozenset({"FR"}), False, True)
    )
    (page,) = distribution.pages
    assert page.match("https://www.example.com/films")
    assert not page.match("https://evil.example/films")


def test_rtmp_distribution_is_open_by_default(tmp_path: Path) -> None:
    (distribution,) = distributions_of(tmp_path)
    assert (distribution.access, distribution.pages) == (AccessRules(), ())


def test_disabled_distribution_is_not_built(tmp_path: Path) -> None:
    assert distributions_of(tmp_path, enabled=False) == []
