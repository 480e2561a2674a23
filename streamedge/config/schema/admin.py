"""The part of the schema for the admin address: users, tokens, and its certificate.

Passwords and tokens are stored as hashes, in one line of text each. The hashes are secrets too: a
weak password can be guessed from its hash, so they are never shown.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from streamedge.config.schema.units import kind_of
from streamedge.config.schema.values import RESTART, LocalPath, Name, Section

USERS_MAX = 256

# scrypt:LOG2N:R:P:SALT:KEY with N from 2^14 to 2^17, so that one check needs at most 128 MiB
# (128 * N * R bytes, RFC 7914); salt and key are base64url without padding.
PASSWORD_HASH = re.compile(r"scrypt:(1[4-7]):(8):([1-8]):([A-Za-z0-9_-]{22}):([A-Za-z0-9_-]{43})")
_TOKEN_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def parse_password_hash(value: object) -> SecretStr:
    """A line that ``streamedge password`` has printed."""
    advice = 'expected a line of streamedge password, which begins with "scrypt:"'
    return _parse_hash(value, PASSWORD_HASH, advice)


def parse_token_hash(value: object) -> SecretStr:
    """A line that ``streamedge password --token`` has printed."""
    advice = 'expected the hash that streamedge password --token prints, "sha256:" and 64 digits'
    return _parse_hash(value, _TOKEN_HASH, advice)


def _parse_hash(value: object, shape: re.Pattern[str], advice: str) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError(f"{advice}; found {kind_of(value)}")  # noqa: TRY004  # pydantic's
    if not shape.fullmatch(text):
        raise ValueError(advice)
    return SecretStr(text)


RoleName = Literal["reader", "operator"]
PasswordHash = Annotated[SecretStr, BeforeValidator(parse_password_hash)]
TokenHash = Annotated[SecretStr, BeforeValidator(parse_token_hash)]


class AdminUserConfig(Section):
    """A person who logs in on the page; the table's name is the name to log in with."""

    password: PasswordHash = Field(
        description="The password's hash, a line that streamedge password prints:"
        ' "scrypt:15:8:3:…".',
    )
    role: RoleName = Field(
        description="reader: sees everything and changes nothing; operator: may do everything."
    )


class AdminTokenConfig(Section):
    """A token for programs, which send it as Authorization: Bearer."""

    hash: TokenHash = Field(
        description="The token's hash, as streamedge password --token prints it:"
        ' "sha256:…"; the token itself is not in the config.',
    )
    role: RoleName = Field(description="reader or operator, as of a user.")


class AdminConfig(Section):
    """Access to the admin address. Without users and tokens, only this machine has any."""

    certificate: Annotated[LocalPath | None, RESTART] = Field(
        default=None,
        description="PEM file with the certificate of the admin address and its chain: it is then"
        " served over TLS. A renewed file is loaded without a restart.",
        examples=["certs/admin.pem"],
    )
    key: Annotated[LocalPath | None, RESTART] = Field(
        default=None,
        description="PEM file with its private key, unencrypted.",
        examples=["certs/admin.key"],
    )
    users: dict[Name, AdminUserConfig] = Field(
        default={}, description="People, each a table.", max_length=USERS_MAX
    )
    tokens: dict[Name, AdminTokenConfig] = Field(
        default={}, description="Programs, each a table.", max_length=USERS_MAX
    )

    @property
    def has_users(self) -> bool:
        """Whether callers have to say who they are."""
        return bool(self.users or self.tokens)
