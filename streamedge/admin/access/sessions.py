"""Sessions of users who have logged in, in the memory of the control process. Pure.

A session ends when its user logs out, after IDLE_S without a call, when the user's password or role
changes, when there are more than SESSIONS_MAX, and when the control process ends.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

IDLE_S = 8 * 3600.0
SESSIONS_MAX = 64
_IDENTIFIER_BYTES = 32


@dataclass(slots=True)
class Session:
    """``credential``: the password's hash at the login. ``used_s`` is monotonic."""

    user: str
    credential: str
    used_s: float


class Sessions:
    """The sessions by identifier. The least recently used one ends where there are too many.

    Only hashes of the identifiers are kept, so a lookup compares no secret byte by byte.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, user: str, credential: str, now_s: float) -> str:
        """Starts a session; returns its identifier, which only the user's browser knows."""
        self._end_idle(now_s)
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.popitem(last=False)
        identifier = secrets.token_urlsafe(_IDENTIFIER_BYTES)
        self._sessions[_key(identifier)] = Session(user, credential, now_s)
        return identifier

    def use(self, identifier: str, now_s: float) -> Session | None:
        """The session, which is used now; None if it has ended or never existed."""
        self._end_idle(now_s)
        key = _key(identifier)
        session = self._sessions.get(key)
        if session is not None:
            session.used_s = now_s
            self._sessions.move_to_end(key)
        return session

    def end(self, identifier: str) -> None:
        """Ends a session, if it exists."""
        self._sessions.pop(_key(identifier), None)

    def _end_idle(self, now_s: float) -> None:
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if now_s - oldest.used_s < IDLE_S:
                return
            self._sessions.popitem(last=False)


def _key(identifier: str) -> bytes:
    return sha256(identifier.encode(errors="surrogatepass")).digest()
