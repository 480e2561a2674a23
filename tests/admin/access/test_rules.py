"""The rules of access, in each combination of connection, users, role and call."""

from __future__ import annotations

from itertools import product

import pytest

from streamedge.admin.access.rules import (
    NO_USERS,
    NOT_LOGGED_IN,
    NOT_SECRET,
    READER_CHANGES,
    Connection,
    Role,
    refusal,
    role_on,
)

UNIX, LOCAL = Connection(is_unix=True), Connection(is_local=True)
LOCAL_TLS = Connection(is_local=True, is_tls=True)
REMOTE, REMOTE_TLS = Connection(), Connection(is_tls=True)
CONNECTIONS = [UNIX, LOCAL, LOCAL_TLS, REMOTE, REMOTE_TLS]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "PURGE"]
PATHS = [
    *("/healthz", "/metrics", "/", "/page/app.js", "/login", "/logout", "/session"),
    *("/status", "/writes", "/page", "/healthz/", "//metrics", "/page/../writes", "/reload"),
]
ROLES = [None, Role.READER, Role.OPERATOR]


@pytest.mark.parametrize(
    ("connection", "has_users", "proven", "expected"),
    [
        (UNIX, False, None, Role.OPERATOR),
        (UNIX, True, None, Role.OPERATOR),
        (LOCAL, False, None, Role.OPERATOR),
        (LOCAL, True, None, None),
        (LOCAL, True, Role.READER, Role.READER),
        (REMOTE, False, None, None),
        (REMOTE_TLS, False, None, None),
        (REMOTE, True, Role.OPERATOR, None),
        (REMOTE_TLS, True, Role.OPERATOR, Role.OPERATOR),
        (REMOTE_TLS, False, Role.OPERATOR, None),
    ],
)
def test_role_is_that_of_the_connection_or_the_proof(
    connection: Connection, has_users: bool, proven: Role | None, expected: Role | None
) -> None:
    assert role_on(connection, has_users=has_users, proven=proven) is expected


@pytest.mark.parametrize(
    ("connection", "has_users", "role", "call", "expected"),
    [
        (REMOTE, False, None, "GET /writes", NO_USERS),
        (REMOTE_TLS, False, None, "GET /", NO_USERS),
        (REMOTE, False, None, "POST /login", NO_USERS),
        (REMOTE, False, None, "GET /metrics", None),
        (REMOTE, True, None, "HEAD /healthz", None),
        (REMOTE, True, None, "POST /healthz", NOT_SECRET),
        (REMOTE, True, None, "POST /login", NOT_SECRET),
        (REMOTE, True, None, "GET /page/app.js", NOT_SECRET),
        (REMOTE_TLS, True, None, "GET /", None),
        (REMOTE_TLS, True, None, "GET /page/app.js", None),
        (REMOTE_TLS, True, None, "POST /page/app.js", NOT_LOGGED_IN),
        (REMOTE_TLS, True, None, "POST /login", None),
        (REMOTE_TLS, True, None, "GET /status", NOT_LOGGED_IN),
        (REMOTE_TLS, True, None, "GET /session", NOT_LOGGED_IN),
        (REMOTE_TLS, True, None, "POST /logout", NOT_LOGGED_IN),
        (LOCAL, True, None, "DELETE /writes/7", NOT_LOGGED_IN),
        (LOCAL, True, Role.READER, "GET /writes", None),
        (LOCAL, True, Role.READER, "DELETE /writes/7", READER_CHANGES),
        (LOCAL, True, Role.READER, "POST /logout", None),
        (LOCAL, True, Role.OPERATOR, "DELETE /writes/7", None),
    ],
)
def test_call_is_refused_for_the_first_reason(
    connection: Connection, has_users: bool, role: Role | None, call: str, expected: object
) -> None:
    method, path = call.split(" ")
    actual = refusal(connection, has_users=has_users, role=role, method=method, path=path)
    assert actual is expected


def test_change_needs_an_operator() -> None:
    """Whatever the call: only an operator changes anything."""
    for connection, has_users, proven, method, path in product(
        CONNECTIONS, (False, True), ROLES, METHODS, PATHS
    ):
        role = role_on(connection, has_users=has_users, proven=proven)
        refused = refusal(connection, has_users=has_users, role=role, method=method, path=path)
        if refused is None and method not in {"GET", "HEAD"} and path not in {"/login", "/logout"}:
            assert role is Role.OPERATOR
            assert connection.is_unix or proven is Role.OPERATOR or not has_users


def test_data_is_shown_to_proven_callers_and_this_machine_alone() -> None:
    public = {"/healthz", "/metrics", "/", "/page/app.js", "/page/../writes", "/login"}
    for connection, has_users, proven, path in product(CONNECTIONS, (False, True), ROLES, PATHS):
        role = role_on(connection, has_users=has_users, proven=proven)
        refused = refusal(connection, has_users=has_users, role=role, method="GET", path=path)
        if refused is None and path not in public:
            assert role is not None
            assert connection.is_secret
            assert connection.is_unix or proven is not None or not has_users
