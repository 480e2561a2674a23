"""Decides about the calls of the admin address: users, tokens and sessions of the config in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from streamedge.access.client_address import parse_address
from streamedge.admin.access.login_limit import LoginLimit
from streamedge.admin.access.passwords import hash_password, hash_token, is_password
from streamedge.admin.access.rules import Connection, Role, role_on
from streamedge.admin.access.sessions import Sessions
from streamedge.config.schema.admin import AdminConfig
from streamedge.ops.log import Log
from streamedge.ops.rate_limited import RateLimitedEvent

COOKIE = "__Host-streamedge"
CHECKS_WAITING_MAX = 8  # logins that wait for the one whose password is checked


@dataclass(frozen=True, slots=True)
class Caller:
    """The maker of a call. ``user``: the name of the user or token; "" where none is needed."""

    role: Role | None
    user: str = ""
    session: str = ""  # its identifier


class TooManyTriesError(Exception):
    """Logins are limited; ``wait_s`` is when the next one is allowed."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many tries: wait {wait_s:.0f} s")
        self.wait_s = wait_s


class AccessControl:
    """``config`` returns the config in use; a changed user or token counts from the next call on.

    ``is_unix``: the admin address is a Unix socket. ``log`` gets logins and changes.
    """

    def __init__(
        self, config: Callable[[], AdminConfig], log: Log, *, is_unix: bool = False
    ) -> None:
        self._config = config
        self._is_unix = is_unix
        self._log = log
        self._limited = RateLimitedEvent(log, "admin_login_limited")
        self._sessions = Sessions()
        self._limit = LoginLimit()
        self._checking = asyncio.Lock()
        self._waiting = 0
        self._other_hash: str | None = None

    @property
    def has_users(self) -> bool:
        """Whether callers have to say who they are."""
        return self._config().has_users

    def connection(self, scope: Scope) -> Connection:
        """How the caller of an ASGI scope is connected."""
        if self._is_unix:
            return Connection(is_unix=True)
        client, server = scope.get("client"), scope.get("server")
        is_local = _is_loopback(client) and _is_loopback(server)
        return Connection(is_local=is_local, is_tls=scope.get("scheme") == "https")

    def caller(self, connection: Connection, fields: Headers) -> Caller:
        """The maker of a call, by its token or its session."""
        config = self._config()
        has_users = config.has_users
        if connection.is_unix or not has_users or not connection.is_secret:
            return Caller(role_on(connection, has_users=has_users, proven=None))
        scheme, _, token = fields.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._owner_of(token.strip(), config)
        identifier = cookie_parser(fields.get("cookie", "")).get(COOKIE, "")
        session = self._sessions.use(identifier, time.monotonic()) if identifier else None
        user = None if session is None else config.users.get(session.user)
        if session is None or user is None:
            return Caller(None)
        if user.password.get_secret_value() != session.credential:
            self._sessions.end(identifier)
            return Caller(None)
        return Caller(Role(user.role), session.user, identifier)

    async def log_in(self, client: str, user: str, password: str) -> str | None:
        """Starts a session; returns its identifier, or None where name or password is wrong.

        Raises TooManyTriesError. An unknown name takes as long as a wrong password.
        """
        now_s = time.monotonic()
        wait_s = self._limit.wait_s(client, now_s)
        if wait_s > 0 or self._waiting >= CHECKS_WAITING_MAX:
            self._limited.emit(now_s, client=client)
            raise TooManyTriesError(max(1.0, wait_s))
        self._limit.note(client, now_s)
        entry = self._config().users.get(user)
        self._waiting += 1
        try:
            async with self._checking:  # each check needs 32 MiB and a processor
                if self._other_hash is None:
                    self._other_hash = await asyncio.to_thread(hash_password, "")
                line = self._other_hash if entry is None else entry.password.get_secret_value()
                is_right = await asyncio.to_thread(is_password, password, line)
        finally:
            self._waiting -= 1
        if entry is None or not is_right:
            # A name that does not exist may be a password in the wrong field.
            self.record("admin_login_failed", client=client, user=entry and user)
            return None
        self._limit.forgive(client)
        self.record("admin_login", client=client, user=user, role=entry.role)
        return self._sessions.start(user, line, time.monotonic())

    def log_out(self, caller: Caller) -> None:
        """Ends the caller's session."""
        if caller.session:
            self._sessions.end(caller.session)
            self.record("admin_logout", user=caller.user)

    def record(self, event: str, **fields: object) -> None:
        """Logs an event."""
        self._log.event(event, **fields)

    def stats(self) -> Mapping[str, int]:
        """Numbers of sessions, and of addresses whose tries are remembered."""
        return {"sessions": len(self._sessions), "addresses": len(self._limit)}

    def _owner_of(self, token: str, config: AdminConfig) -> Caller:
        """The caller with a token; all hashes are compared, so the time shows nothing."""
        digest, owner = hash_token(token), Caller(None)
        for name, entry in config.tokens.items():
            if compare_digest(digest, entry.hash.get_secret_value()):
                owner = Caller(Role(entry.role), name)
        return owner


def _is_loopback(end: object) -> bool:
    """Whether an end of a connection, (host, port), is a loopback address."""
    if not isinstance(end, tuple | list) or not end:
        return False
    address = parse_address(str(end[0]))
    return address is not None and address.is_loopback
