"""The part of the schema for access: public keys, key groups, countries, the API's keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamedge.config.schema.countries import ALL_COUNTRIES
from streamedge.config.schema.values import AccessKeys, Countries, LocalPath, Names, Section

PEM_LIMIT_CHARACTERS = 16_384


class PublicKeyConfig(Section):
    """A key that verifies signatures of URLs and cookies; its name is the Key-Pair-Id."""

    file: LocalPath | None = Field(
        default=None,
        description="PEM file of the public key: RSA, or ECDSA on the curve P-256.",
        examples=["keys/site-2026.pub.pem"],
    )
    pem: str = Field(
        default="",
        description="The same key as text, in place of file.",
        max_length=PEM_LIMIT_CHARACTERS,
    )


class KeyGroupConfig(Section):
    """Public keys that are trusted together. To rotate: add a key, sign with it, remove the old."""

    keys: Names = Field(
        description="Names of tables under [public_keys].", examples=["K2JCJMDEHXQW5F"]
    )


class CountriesConfig(Section):
    """How a viewer's country is determined."""

    database: LocalPath | None = Field(
        default=None,
        description="MMDB file of countries by address, in MaxMind's schema or flat; a replaced"
        " file"
        " is loaded without a restart.",
        examples=["GeoLite2-Country.mmdb"],
    )
    unknown: Literal["allow", "deny"] = Field(
        default="allow",
        description="Whether viewers of an unknown country are allowed, where countries are"
        " restricted.",
    )


class ApiConfig(Section):
    """CloudFront's API on the admin address."""

    keys: AccessKeys = Field(
        default={},
        description="Access key ids and secrets of its callers, such as"
        ' { AKIAEDGE = "…" }; without keys, the API is disabled.',
    )


class AccessConfig(Section):
    """Access rules: the keys that distributions and behaviors have in common."""

    trusted_key_groups: Names = Field(
        default=(),
        description="Tables under [key_groups]: viewers need a URL or cookie that is signed with"
        " one"
        " of their keys; if empty, no signature is needed.",
        examples=["site"],
    )
    countries: Countries = Field(
        default=ALL_COUNTRIES,
        description="Countries from which viewers have access, { allow = […] }, or have none,"
        ' { deny = […] }, as two-letter codes; unknown = "allow" or "deny" overrides [countries].',
    )
