"""Calls to the admin address of a running edge, and their results for the operator.

Every call has a JSON response. An edge that does not answer or refuses a call is an ``AdminError``
with a message for the operator.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

from rich.table import Table

from streamedge.config.schema.units import (
    format_admin_address,
    format_size_bytes,
    to_connect_to,
)
from streamedge.errors import StreamEdgeError

TIMEOUT_S = 30.0
WAIT_TIMEOUT_S = 660.0  # for a call that waits for the longest fleet.lease, 10 minutes
RESPONSE_MAX_BYTES = 16 << 20
ADVICE_WITHOUT_CREDENTIALS = (
    "the admin address has users: give --user NAME, or a token in STREAMEDGE_ADMIN_TOKEN"
    ' (streamedge password --token makes one); with listen.admin = "unix:PATH" neither is needed'
)
ADVICE_ON_REFUSAL = (
    "the edge does not know this token (--token or STREAMEDGE_ADMIN_TOKEN): its hash must be in"
    " admin.tokens; streamedge password --token makes one, streamedge reload applies it"
)
_JSON = {"Content-Type": "application/json"}


class AdminError(StreamEdgeError):
    """The edge does not answer or refuses the call; the message is for the operator.

    ``body`` is the JSON object of the response; empty if there is none.
    """

    def __init__(self, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.body = body or {}


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin address, and what proves to it who calls.

    ``address``: host and port, or the path of a Unix socket. ``tls`` is None for plain HTTP.
    ``timeout_s``: how long a call waits for each part of its response.
    ``user`` logs in for each call, or once for those of a ``session``, which ``cookie`` is of; else
    ``token`` is sent, if there is one.
    """

    address: tuple[str, int] | Path
    tls: ssl.SSLContext | None = None
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S

    @property
    def fields(self) -> dict[str, str]:
        """The header fields that prove who calls."""
        if self.cookie:
            return {"Cookie": self.cookie}
        return {"Authorization": f"Bearer {self.token}"} if self.token and not self.user else {}

    def __str__(self) -> str:
        return format_admin_address(self._reachable())

    def connect(self) -> HTTPConnection:
        """A connection, which is opened at the first request. No proxy is used."""
        address = self._reachable()
        if isinstance(address, Path):
            return _UnixConnection(address, self.timeout_s)
        host, port = address
        if self.tls is not None:
            return HTTPSConnection(host, port, timeout=self.timeout_s, context=self.tls)
        return HTTPConnection(host, port, timeout=self.timeout_s)

    def _reachable(self) -> tuple[str, int] | Path:
        if isinstance(self.address, Path):
            return self.address
        return to_connect_to(self.address)


class _UnixConnection(HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(admin: Admin, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Sends ``body`` as JSON and returns the JSON response. Raises AdminError."""
    data = None if body is None else json.dumps(body).encode()
    with session(admin) as caller:
        fields = caller.fields if data is None else {**_JSON, **caller.fields}
        return _call_or_error(caller, method, path, data, fields)[0]


@contextmanager
def session(admin: Admin) -> Iterator[Admin]:
    """For several calls: a user logs in once, and out at the end of the block. AdminError."""
    if not admin.user:
        yield admin
        return
    login = json.dumps({"user": admin.user, "password": admin.password}).encode()
    _, response = _call_or_error(admin, "POST", "/login", login, _JSON)
    cookies = SimpleCookie(response.headers.get("Set-Cookie", ""))
    cookie = "; ".join(f"{name}={one.value}" for name, one in cookies.items())
    caller = replace(admin, user="", password="", token="", cookie=cookie)
    try:
        yield caller
    finally:
        _call_or_error(caller, "POST", "/logout", b"", caller.fields)


def events(admin: Admin, path: str) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, JSON objects, until the edge ends. Raises AdminError."""
    with session(admin) as caller, _errors_of(caller):
        connection = caller.connect()
        try:
            connection.request("GET", path, None, caller.fields)
            response = connection.getresponse()
            if response.status >= 300:
                raise _error_of(admin, response, response.read(RESPONSE_MAX_BYTES))
            while line := response.readline(RESPONSE_MAX_BYTES):
                if line.startswith(b"data: "):
                    yield json.loads(line[len(b"data: ") :])
        finally:
            connection.close()


def _call_or_error(
    admin: Admin, method: str, path: str, data: bytes | None, fields: Mapping[str, str]
) -> tuple[dict[str, Any], HTTPResponse]:
    """Calls, and raises AdminError for any failure."""
    with _errors_of(admin):
        return _call_once(admin, method, path, data, fields)


@contextmanager
def _errors_of(admin: Admin) -> Iterator[None]:
    """Raises AdminError for each failure to call the admin address."""
    try:
        yield
    except ssl.SSLError as exc:
        reason = getattr(exc, "verify_message", "") or exc.reason or str(exc)
        raise AdminError(
            f"no TLS connection to the admin address {admin}: {reason}; --ca names the certificate"
            " that is trusted, and with --config it is admin.certificate"
        ) from exc
    except (ValueError, HTTPException) as exc:
        raise AdminError(f"the server on {admin} is not the edge's admin address") from exc
    except OSError as exc:
        raise AdminError(
            f"no edge answers on its admin address {admin} ({exc}); start it with: streamedge serve"
        ) from exc


def _call_once(
    admin: Admin, method: str, path: str, data: bytes | None, fields: Mapping[str, str]
) -> tuple[dict[str, Any], HTTPResponse]:
    connection = admin.connect()
    try:
        connection.request(method, path, data, dict(fields))
        response = connection.getresponse()
        text = response.read(RESPONSE_MAX_BYTES)
    finally:
        connection.close()
    if response.status >= 300:
        raise _error_of(admin, response, text)
    document: dict[str, Any] = json.loads(text)
    return document, response


def _error_of(admin: Admin, response: HTTPResponse, text: bytes) -> AdminError:
    try:
        document = json.loads(text)
        message = str(document["error"])
        is_logged_in = admin.user or admin.cookie
        if response.status == HTTPStatus.UNAUTHORIZED and not is_logged_in:
            message = ADVICE_ON_REFUSAL if admin.token else ADVICE_WITHOUT_CREDENTIALS
        return AdminError(message, document)
    except (KeyError, TypeError, ValueError):
        return AdminError(f"the admin address answered {response.status} {response.reason}")


def reload(admin: Admin) -> dict[str, Any]:
    """Reloads the config file; what changed. Raises AdminError: ``problems`` has the mistakes."""
    return call(admin, "POST", "/reload")


def reload_summary(result: Mapping[str, Any]) -> Iterator[str]:
    """The result of ``reload`` in lines."""
    changed, needs_restart = result["changed"], result["needs_restart"]
    yield f"Changed: {', '.join(changed)}." if changed else "Nothing has changed."
    if needs_restart:
        yield f"Needs a restart, and is as before until then: {', '.join(needs_restart)}."
    if result["workers_pending"]:
        numbers = ", ".join(map(str, result["workers_pending"]))
        yield f"Not applied yet by worker {numbers}: see its lines in the log."


def invalidate(
    admin: Admin,
    distribution: str,
    items: Sequence[str],
    tags: Sequence[str],
    *,
    soft: bool,
    revoke: bool,
    wait: bool,
) -> dict[str, Any]:
    """Invalidates items and tags; the response to ``POST /invalidations``. Raises AdminError."""
    request = {
        "distribution": distribution,
        "items": list(items),
        "tags": list(tags),
        "soft": soft,
        "revoke": revoke,
        "wait": wait,
    }
    caller = replace(admin, timeout_s=WAIT_TIMEOUT_S) if wait else admin
    return call(caller, "POST", "/invalidations", request)


def invalidation_summary(result: Mapping[str, Any]) -> str:
    """The result of ``invalidate`` in one line; with one more for each edge of a fleet, and for
    each thing that is missing.
    """
    count = len(result["items"])
    items = f"{result['id']}: {count} item{'s' if count > 1 else ''} of {result['distribution']}"
    state = "stale from now on" if result["soft"] else "not served again from now on"
    edges = "".join(f"\n  {name}: {ms} ms" for name, ms in result.get("edges", {}).items())
    place = "edge" if "edges" in result else "worker"
    if result.get("applied") is False:
        missing = result.get("missing") or ["see the log"]
        edges += "".join(f"\n  {sentence}" for sentence in missing)
        return f"{items} {state}, but not every {place} is known to have applied it:{edges}"
    return f"{items} {state}{f', in every {place}' if result.get('applied') else ''}.{edges}"


def list_writes(admin: Admin) -> dict[str, Any]:
    """Queued writes and dead letters: the response to ``GET /writes``. Raises AdminError."""
    return call(admin, "GET", "/writes")


def retry_write(admin: Admin, serial: int, *, unconditional: bool) -> dict[str, Any]:
    """Retries a dead letter; returns the response. Raises AdminError."""
    return call(admin, "POST", f"/writes/{serial}/retry?unconditional={int(unconditional)}")


def discard_write(admin: Admin, serial: int) -> dict[str, Any]:
    """Deletes a dead letter; returns the response. Raises AdminError."""
    return call(admin, "DELETE", f"/writes/{serial}")


def writes_summary(document: Mapping[str, Any]) -> str:
    """The counts of ``list_writes`` in one line."""
    by_state = document["by_state"]
    waiting = by_state["queued"] + by_state["sending"]
    failed = by_state["conflict"] + by_state["failed"]
    size = format_size_bytes(document["held_bytes"])
    return (
        f"{waiting} waiting, {failed} failed, {size} on disk;"
        f" {document['done']} of {document['accepted']} accepted writes are done."
    )


def writes_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The rows of ``list_writes`` as a table; no table if there are none."""
    if not document["rows"]:
        return
    table = Table(title_justify="left", title="Writes")
    for column in ("Serial", "State", "Write", "Origin", "Size", "Age", "Attempts", "Problem"):
        table.add_column(column, overflow="fold")
    for row in document["rows"]:
        age = timedelta(seconds=round(row["age_s"]))
        table.add_row(
            str(row["serial"]),
            row["state"],
            f"{row['method']} {row['object']}",
            row["origin"],
            format_size_bytes(row["size_bytes"]),
            str(age),
            str(row["attempts"]),
            row["problem"] or "",
        )
    if document["rows_left_off"]:
        table.caption = f"and {document['rows_left_off']} more"
    yield table
