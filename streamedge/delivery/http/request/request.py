"""A parsed HTTP request of a viewer: the host, path, query, fields and client address.

Also checks the request line, the host and the framing of a request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from http import HTTPStatus

from streamedge.access.client_address import IpNetwork, forwarded_address, forwarded_secure
from streamedge.delivery.hosts import host_name, is_host
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.value_object import value_object

HEAD_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
HEAD_MEMBERS_MAX = 1_000
"""Fields and members of their lists in a request's head. A parser of a list takes 1 to 2 us for a
member: a head of ``HEAD_BYTES_MAX`` with only commas would keep a worker busy for 15 to 30 ms."""

HOST_BYTES_MAX = 261  # a name of 255 bytes (RFC 1035 §2.3.4), and a port
_CODING = b"transfer-encoding"
_TARGET = re.compile(rb"[!\"$-~]+")
# No other scheme is served, and a user name before the host is a means of phishing (RFC 9110
# §4.2.4): a target with either does not match.
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]*)([/?][^#]*)?")


@value_object
class WebRequest:
    """The parts of a request.

    ``headers``: by name in lower case; repeated fields are joined with ", ", Cookie with "; ".
    ``fields``: the same as received, in order. ``path``: as received, without the query.
    ``host``: "" when it is missing, invalid or ambiguous. ``client``: address and port of the
    connection. ``address``: the viewer's address, from a trusted proxy's X-Forwarded-For (then also
    ``forwarded_client``) or from the connection; ``secure`` comes from X-Forwarded-Proto or the
    connection likewise.
    ``misdirected``: the connection was made for another host. ``from_proxy``: it is a trusted
    proxy's.
    """

    method: str
    host: str
    path: bytes
    headers: dict[str, str]
    client: str
    keep_alive: bool
    started_s: float  # on the event loop's clock
    query: str = ""
    fields: tuple[Field, ...] = ()
    secure: bool = False
    http_version: str = "1.1"
    received_at_s: float = 0.0  # in seconds since 1970
    address: str = ""
    misdirected: bool = False
    forwarded_client: str = ""
    has_unstated_length: bool = False  # it has a body, and HTTP/2 needs no field to frame it
    from_proxy: bool = False
    edge_label: str = ""  # the edge whose name below ``host`` the viewer used
    request_id: str = ""  # in X-Amz-Cf-Id of the response; "": it has none

    @property
    def sent_host(self) -> str:
        """The host as the viewer sent it."""
        return f"{self.edge_label}.{self.host}" if self.edge_label else self.host

    @property
    def viewer(self) -> str | None:
        """The viewer's address where it is not the connection's."""
        return self.forwarded_client or None

    @property
    def has_body(self) -> bool:
        length = self.headers.get("content-length", "0")
        return "transfer-encoding" in self.headers or length != "0" or self.has_unstated_length


def request_line_error(http_version: str, method: bytes, target: bytes) -> HTTPStatus | None:
    """The error status for a request line that the parser accepts but the edge must not; else None.

    A request line without a version is HTTP/0.9, which RFC 9112 §3 does not allow. HTTP/2 starts
    with another preface (RFC 9113 §3.4).
    """
    if http_version not in {"1.0", "1.1"}:
        is_later = http_version > "1.1"
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if is_later else HTTPStatus.BAD_REQUEST
    return None if is_valid_target(method, target) else HTTPStatus.BAD_REQUEST


def is_valid_target(method: bytes, target: bytes) -> bool:
    """Whether a target is printable ASCII without a fragment, and "*" only for OPTIONS (RFC 9112
    §3.2)."""
    if target == b"*":
        return method == b"OPTIONS"
    return _TARGET.fullmatch(target) is not None


def has_unambiguous_length(fields: Sequence[tuple[bytes, bytes]], http_version: str) -> bool:
    """Whether every recipient finds the same end of the request (RFC 9112 §6.1, §6.3).

    The only transfer coding that the edge implements is chunked; HTTP/1.0 has none.
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
    started_s: float,
    secure: bool,
    http_version: str,
    serves: Callable[[str], bool] | None = None,
    has_unstated_length: bool = False,
    request_id: str = "",
) -> WebRequest:
    """Builds a WebRequest of any HTTP version, for the fast path and for the handler.

    The host is "" when it is missing, repeated, invalid or contradicts an absolute-form target.
    ``proxies``: the trusted proxies if the client is one of them, otherwise empty. ``serves``: says
    which hosts the connection was made for; None means any.
    """
    sent = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])
    headers: dict[str, str] = {}
    for name, value in sent:
        separator = "; " if name == "cookie" else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    hosts = [value for name, value in sent if name == "host"]
    host = hosts[0] if len(hosts) == 1 and len(hosts[0]) <= HOST_BYTES_MAX else ""
    if not is_host(host):
        host = ""
    if not target.startswith(b"/") and target != b"*":
        authority, target = _absolute(target)
        if host_name(authority) != host_name(host):
            host = ""
    forwarded_client = ""
    if proxies:
        forwarded_client = forwarded_address(headers.get("x-forwarded-for", ""), proxies)
        secure = forwarded_secure(headers.get("x-forwarded-proto", ""), secure=secure)
    path, _, query = target.partition(b"?")
    return WebRequest(
        method,
        host,
        path,
        headers,
        client,
        keep_alive,
        started_s,
        query.decode("latin-1"),
        sent,
        secure,
        http_version,
        time.time(),
        forwarded_client or address,
        serves is not None and not serves(host),
        forwarded_client,
        has_unstated_length,
        bool(proxies),
        request_id=request_id,
    )


def with_alias_host(request: WebRequest, label: str, host: str) -> WebRequest:
    """The request to the edge ``label`` below ``host``, as one to ``host`` itself."""
    headers = request.headers | {"host": host}
    fields = tuple(
        (name, host if name.lower() == "host" else value) for name, value in request.fields
    )
    return replace(request, host=host, headers=headers, fields=fields, edge_label=label)


def request_url(request: WebRequest, host: str) -> str:
    """The URL that the viewer has requested, at another host; with its query and signature."""
    query = f"?{request.query}" if request.query else ""
    scheme = "https" if request.secure else "http"
    return f"{scheme}://{host}{request.path.decode('latin-1')}{query}"


def without_field(request: WebRequest, name: str) -> WebRequest:
    """The request without the field ``name``, which is in lower case."""
    headers = {field: value for field, value in request.headers.items() if field != name}
    fields = tuple(field for field in request.fields if field[0].lower() != name)
    return replace(request, headers=headers, fields=fields)


def error_page_request(request: WebRequest, path: str) -> WebRequest:
    """The request for an error page in place of ``request``: the same for all viewers."""
    return replace(request, path=path.encode("latin-1"), query="", headers={}, fields=())


def error_page_viewer(request: WebRequest, path: str) -> WebRequest:
    """The request that a viewer's error page is the response to, with the viewer's own fields.

    They select the content coding, and whether another site may read it. A page is sent whole.
    """
    method = "HEAD" if request.method == "HEAD" else "GET"
    shown = replace(request, method=method, path=path.encode("latin-1"), query="")
    return without_field(shown, "range") if "range" in shown.headers else shown


def _absolute(target: bytes) -> tuple[str, bytes]:
    """Host and path of a target in absolute-form (RFC 9112 §3.2.2); host "" when it is invalid."""
    match = _ABSOLUTE.fullmatch(target)
    host = match[1].decode("latin-1") if match is not None else ""
    if match is None or not is_host(host):
        return "", b"/"
    rest = match[2] or b"/"
    return host, rest if rest.startswith(b"/") else b"/" + rest


def is_head_too_large(target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a head has more than ``HEAD_BYTES_MAX`` or ``HEAD_MEMBERS_MAX``.

    Commas and semicolons end members, wherever they are (RFC 9110 §5.6.1, RFC 6265 §4.2.1).
    """
    size_bytes = request_size_bytes(target, fields)
    if size_bytes <= HEAD_MEMBERS_MAX:
        return False
    members = sum(1 + value.count(b",") + value.count(b";") for _name, value in fields)
    return size_bytes > HEAD_BYTES_MAX or members > HEAD_MEMBERS_MAX


def request_size_bytes(target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> int:
    """The size of a target and fields on the wire, without optional white space."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in fields)
