"""A viewer's request as the site sees it, made of what the parser gave.

Owns which Host counts, what of the target is path and query, and how long a request was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from streamedge.access.client_address import IpNetwork, forwarded_address, forwarded_secure
from streamedge.delivery.hosts import host_name, is_host
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.http_fields import parse_connection

HOST_BYTES_MAX = 261  # a name of 255 bytes (RFC 1035 §2.3.4), and a port
_CODING = b"transfer-encoding"
_TARGET = re.compile(rb"[!\"$-~]+")
# No other scheme leads here, and a user's name before the host is how links deceive (RFC 9110
# §4.2.4): what is neither is not looked into.
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]*)([/?][^#]*)?")


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request's parts; ``headers`` in lower case, ``path`` as it was sent, without query.

    ``host`` is "" when the request does not say, or not without doubt, which host it means.
    ``fields`` are its header fields as they were sent. ``client`` is the connection's address and
    port, ``address`` the viewer's address, which a trusted proxy may have told (``told_address``);
    so with ``secure``.
    ``misdirected``: it came over a connection that was made for another host.
    """

    method: str
    host: str
    path: bytes
    headers: dict[str, str]
    client: str
    keep_alive: bool
    begun_s: float  # by the event loop's clock
    query: str = ""
    fields: tuple[Field, ...] = ()
    secure: bool = False
    http_version: str = "1.1"
    came_s: float = 0.0  # in seconds since 1970
    address: str = ""
    misdirected: bool = False
    told_address: str = ""

    @property
    def viewer(self) -> str | None:
        """The viewer's address where it is not the connection's."""
        return self.told_address or None

    @property
    def has_body(self) -> bool:
        length = self.headers.get("content-length", "0")
        return "transfer-encoding" in self.headers or length != "0"


def request_line_refusal(http_version: str, target: bytes) -> HTTPStatus | None:
    """The answer to a request line that the parser lets through, and nobody should; else None.

    One without a version is of HTTP/0.9, which RFC 9112 §3 has no more; HTTP/2 begins otherwise
    (RFC 9113 §3.4). A target is printable ASCII, and has no fragment (RFC 9112 §3.2).
    """
    if http_version not in {"1.0", "1.1"}:
        is_later = http_version > "1.1"
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if is_later else HTTPStatus.BAD_REQUEST
    return None if _TARGET.fullmatch(target) else HTTPStatus.BAD_REQUEST


def has_clear_end(fields: Sequence[tuple[bytes, bytes]], http_version: str) -> bool:
    """Whether nobody can doubt where a request ends (RFC 9112 §6.1, §6.3).

    Of all transfer codings only chunked is known here, and HTTP/1.0 has none.
    """
    codings = [value.strip(b" \t").lower() for name, value in fields if name == _CODING]
    return not codings or (codings == [b"chunked"] and http_version == "1.1")


def web_request(
    method: str,
    target: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    *,
    client: str,
    address: str,
    proxies: Sequence[IpNetwork],
    keep_alive: bool,
    begun_s: float,
    secure: bool,
    http_version: str,
    serves: Callable[[str], bool] | None = None,
) -> WebRequest:
    """The parts of a request, for every way of answering it; its host is "" when missing, doubled,
    contradicted or none.

    ``proxies`` are the trusted ones if one of them is the client, or else none. ``serves``: the
    hosts that the connection was made for; None: any.
    """
    sent = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
    headers: dict[str, str] = {}
    for name, value in sent:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    named = [value for name, value in sent if name == "host"]
    host = named[0] if len(named) == 1 and len(named[0]) <= HOST_BYTES_MAX else ""
    if not is_host(host):
        host = ""
    if not target.startswith(b"/") and target != b"*":
        authority, target = _absolute(target)
        if host_name(authority) != host_name(host):
            host = ""
    told_address = ""
    if proxies:
        told_address = forwarded_address(headers.get("x-forwarded-for", ""), proxies)
        secure = forwarded_secure(headers.get("x-forwarded-proto", ""), secure=secure)
    path, _, query = target.partition(b"?")
    return WebRequest(
        method,
        host,
        path,
        headers,
        client,
        keep_alive,
        begun_s,
        query.decode("latin-1"),
        sent,
        secure,
        http_version,
        time.time(),
        told_address or address,
        serves is not None and not serves(host),
        told_address,
    )


def without_field(request: WebRequest, name: str) -> WebRequest:
    """The request as if a field, ``name`` in lower case, had not been sent."""
    headers = {field: value for field, value in request.headers.items() if field != name}
    fields = tuple(field for field in request.fields if field[0].lower() != name)
    return replace(request, headers=headers, fields=fields)


def _absolute(target: bytes) -> tuple[str, bytes]:
    """Host and path of a target in absolute-form (RFC 9112 §3.2.2); host "": it is none."""
    found = _ABSOLUTE.fullmatch(target)
    host = found[1].decode("latin-1") if found is not None else ""
    if found is None or not is_host(host):
        return "", b"/"
    rest = found[2] or b"/"
    return host, rest if rest.startswith(b"/") else b"/" + rest


def connection_options(fields: Iterable[Field]) -> frozenset[str]:
    """The fields that Connection says are for one hop, in lower case (RFC 9110 §7.6.1)."""
    return frozenset(
        option
        for name, value in fields
        if name.lower() == "connection"
        for option in parse_connection(value)
    )


def size_bytes(target: bytes, fields: list[tuple[bytes, bytes]]) -> int:
    """What a request's target and fields took on the wire, up to white space."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in fields)
