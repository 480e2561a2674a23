"""Checks of [admin]: its certificate, and where passwords may be sent."""

from __future__ import annotations

import tomllib

import pytest

from streamedge.config.checks.admin import admin_mistakes

USERS = '[admin]\nusers.anna = {password = "x", role = "reader"}\n'
TOKENS = '[admin]\ntokens.board = {hash = "x", role = "reader"}\n'
PAIR = '[admin]\ncertificate = "a.pem"\nkey = "a.key"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (USERS, []),
        (USERS + '[listen]\nadmin = "[::1]:9090"', []),
        (USERS + '[listen]\nadmin = "localhost:9090"', []),
        (USERS + '[listen]\nadmin = "unix:/run/admin.sock"', []),
        (USERS + '[listen]\nadmin = ":9090"', ["admin.users"]),
        (TOKENS + '[listen]\nadmin = "192.0.2.1:9090"', ["admin.tokens"]),
        (TOKENS + '[listen]\nadmin = "ops.example:9090"', ["admin.tokens"]),
        (PAIR + 'users.anna = {}\n[listen]\nadmin = ":9090"', []),
        (PAIR, []),
        (PAIR + '[listen]\nadmin = "unix:/run/admin.sock"', ["admin.certificate"]),
        ('[admin]\ncertificate = "a.pem"', ["admin.key"]),
        ('[admin]\nkey = "a.key"', ["admin.certificate"]),
        ("admin = 7\nlisten = 7", []),
        (USERS + "[listen]\nadmin = 7", []),
        ('[listen]\nadmin = ":9090"', []),
    ],
)
def test_passwords_beyond_loopback_need_a_certificate(text: str, expected: list[str]) -> None:
    mistakes = admin_mistakes(tomllib.loads(text))
    assert [".".join(map(str, mistake.key)) for mistake in mistakes] == expected
