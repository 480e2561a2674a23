"""The rules of access to the admin address: connection, role and call give a decision. Pure.

- ``/healthz`` and ``/metrics`` are open to all that reach the address.
- On a Unix socket the file's mode decides: each caller is an operator.
- Without users and tokens, callers on this machine are operators, and others get nothing.
- With users or tokens, each other call needs one of them; beyond loopback only over TLS.
- A reader changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/healthz", "/metrics"})
LOGIN_PATH, LOGOUT_PATH, SESSION_PATH = "/login", "/logout", "/session"
PAGE_PATH, PAGE_FILES = "/", "/page/"


class Role(StrEnum):
    """What a caller may do; see ``[admin.users.NAME]``."""

    READER = "reader"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Connection:
    """How a caller reaches the admin address. ``is_local``: both ends are loopback addresses."""

    is_unix: bool = False
    is_local: bool = False
    is_tls: bool = False

    @property
    def is_secret(self) -> bool:
        """Whether no third party can read what is sent."""
        return self.is_unix or self.is_local or self.is_tls


@dataclass(frozen=True, slots=True)
class Refusal:
    """The response to a refused call; ``reason`` is for the caller."""

    status: HTTPStatus
    reason: str


NO_USERS = Refusal(
    HTTPStatus.FORBIDDEN,
    "without users, this address shows only /healthz and /metrics to other machines: declare users"
    " or tokens under [admin] in the config file (streamedge password makes their hashes)",
)
NOT_SECRET = Refusal(
    HTTPStatus.FORBIDDEN,
    "passwords and tokens are accepted only over TLS: set admin.certificate and admin.key in the"
    " config file, and use https://",
)
NOT_LOGGED_IN = Refusal(
    HTTPStatus.UNAUTHORIZED,
    "log in on the page, or send a token as Authorization: Bearer TOKEN",
)
READER_CHANGES = Refusal(HTTPStatus.FORBIDDEN, "a reader may look, but not change anything")


def role_on(connection: Connection, *, has_users: bool, proven: Role | None) -> Role | None:
    """The caller's role; ``proven``: of the session or token that came with the call."""
    if connection.is_unix or (not has_users and connection.is_local):
        return Role.OPERATOR
    return proven if has_users and connection.is_secret else None


def refusal(
    connection: Connection, *, has_users: bool, role: Role | None, method: str, path: str
) -> Refusal | None:
    """Why a call is refused; None if it is not. ``role``: the result of ``role_on``."""
    is_safe = method in SAFE_METHODS
    if path in OPEN_PATHS and is_safe:
        return None
    if role is None:
        if not has_users:
            return NO_USERS
        if not connection.is_secret:
            return NOT_SECRET
        if is_public(method, path):
            return None
        return NOT_LOGGED_IN
    if role is Role.READER and not is_safe and path not in {LOGIN_PATH, LOGOUT_PATH}:
        return READER_CHANGES
    return None


def is_public(method: str, path: str) -> bool:
    """Whether a call needs no login: the page's files, which hold no data, and the login itself."""
    if path == LOGIN_PATH:
        return method == "POST"
    return method in SAFE_METHODS and (path == PAGE_PATH or path.startswith(PAGE_FILES))
