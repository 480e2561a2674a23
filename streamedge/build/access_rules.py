"""Builds access rules from a config, for HTTP and RTMP: trusted keys and allowed countries.

``access.admission`` applies the rules.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from streamedge.access.admission import AccessRules, CountryRule
from streamedge.access.keys import KeyFileError, PublicKey, load_public_key
from streamedge.config.schema.config import Config, PublicKeyConfig
from streamedge.config.schema.countries import CountryList

PARSED_KEYS_MAX = 1024  # parsed keys that stay in memory between configs


def access_rules(
    config: Config, trusted_key_groups: Iterable[str], countries: CountryList
) -> AccessRules:
    """The access rules of a distribution or behavior.

    Without key groups no signature is needed; with groups that have no keys, no viewer has access.
    A key that two configs have in common is the same object in both. Raises KeyFileError.
    """
    groups = tuple(trusted_key_groups)
    names = dict.fromkeys(key for group in groups for key in config.key_groups[group].keys)
    keys = {name: public_key(name, config.public_keys[name]) for name in names}
    return AccessRules(keys if groups else None, _country_rule(config, countries))


def _country_rule(config: Config, countries: CountryList) -> CountryRule | None:
    if countries.is_open:
        return None
    unknown = countries.unknown or config.countries.unknown
    return CountryRule(frozenset(countries.codes), countries.is_allow_list, unknown == "allow")


def public_key(name: str, section: PublicKeyConfig) -> PublicKey:
    """The key of a table of [public_keys]. Raises KeyFileError, which has its name."""
    try:
        pem = section.pem.encode()
        if not pem and section.file is not None:
            pem = section.file.read_bytes()
        return _parse_key(name, pem)
    except (OSError, KeyFileError) as exc:
        raise KeyFileError(f"public key {name}: {exc}") from exc


@functools.lru_cache(maxsize=PARSED_KEYS_MAX)
def _parse_key(name: str, pem: bytes) -> PublicKey:
    return load_public_key(name, pem)
