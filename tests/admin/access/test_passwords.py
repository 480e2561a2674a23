"""Hashes of passwords and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.admin.access.passwords import hash_password, hash_token, is_password, new_token
from streamedge.config.schema.admin import parse_password_hash, parse_token_hash
from tests.support.admin.access import PASSWORD_HASH as LINE


def test_hash_is_that_of_its_password_alone() -> None:
    line = hash_password("correct horse")
    assert is_password("correct horse", line)
    assert not is_password("correct horses", line)
    assert not is_password("", line)


def test_hash_of_another_program_is_checked() -> None:
    assert is_password("correct horse", LINE)
    assert not is_password("correct horses", LINE)


def test_hashes_of_one_password_differ_by_their_salt() -> None:
    first, second = hash_password("correct horse"), hash_password("correct horse")
    assert first != second
    assert hash_password("correct horse", bytes(16)) == hash_password("correct horse", bytes(16))


def test_config_takes_the_lines_that_are_made() -> None:
    line = hash_password("correct horse")
    assert parse_password_hash(line).get_secret_value() == line
    token = hash_token(new_token())
    assert parse_token_hash(token).get_secret_value() == token


def test_two_encodings_of_a_letter_are_one_password() -> None:
    line = hash_password("caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert is_password("cafe\N{COMBINING ACUTE ACCENT}", line)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_other_text_is_the_hash_of_no_password(text: str) -> None:
    assert not is_password("correct horse", text)
    with pytest.raises(ValueError):
        parse_password_hash(text)
    with pytest.raises(ValueError):
        parse_token_hash(text)


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("scrypt:14", "scrypt:31"),  # 256 GiB
        LINE.replace(":8:1:", ":1024:1:"),
        LINE.replace(":8:1:", ":8:99:"),
        LINE + "A",
        LINE.replace("scrypt", "bcrypt"),
        LINE + "\n",
    ],
)
def test_costs_are_bounded(line: str) -> None:
    assert not is_password("correct horse", line)
    with pytest.raises(ValueError, match="streamedge password"):
        parse_password_hash(line)


def test_very_long_password_is_not_hashed() -> None:
    assert not is_password("a" * 1025, LINE)


def test_tokens_are_random_and_their_hash_is_sha_256() -> None:
    assert len({new_token() for _ in range(50)}) == 50
    assert hash_token("abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
