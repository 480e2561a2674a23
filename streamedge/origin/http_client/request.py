"""The head of an HTTP/1.1 request: the endpoint of a URL, the target, the fields, the framing.

Pure. The caller's values are not changed: a target is sent with the percent-encoding that it has.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import h11

from streamedge.origin.http_client.pool import Endpoint

RequestFields = Mapping[str, str] | Sequence[tuple[str, str]]
Body = AsyncIterator[bytes] | bytes | None

# Scheme, host (with brackets around an IPv6 address), port, target.
_URL = re.compile(
    r"((?i:https?))://(\[[^]/?#@]+\]|[^]\[/?#@:]+)(?::(\d{1,5}))?((?:[/?][^#]*)?)(?:#.*)?"
)
_BODY_METHODS = frozenset({"PATCH", "POST", "PUT"})


def split_url(url: str) -> tuple[Endpoint, str, str]:
    """The endpoint, the Host (RFC 9110 §7.2: without a default port) and the target of ``url``.

    Raises ValueError.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("a request needs a URL of http or https with a host")
    scheme, host, port_text, target = match.groups()
    is_tls = scheme.lower() == "https"
    default_port = 443 if is_tls else 80
    port = int(port_text or default_port)
    if not 0 < port < 1 << 16:
        raise ValueError("the port of a URL is from 1 to 65535")
    endpoint = Endpoint(is_tls, host.strip("[]").lower(), port)
    authority = host if port == default_port else f"{host}:{port}"
    return endpoint, authority, target if target.startswith("/") else f"/{target}"


def encode_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """The fields as bytes. Raises ValueError."""
    return [(name.encode("ascii"), value.strip(" \t").encode("latin-1")) for name, value in fields]


def make_request(
    method: str, authority: str, target: str, headers: RequestFields, body: Body
) -> h11.Request:
    """The request's head with its framing (RFC 9112 §6). Raises ValueError."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = encode_fields(pairs)
    names = {name.lower() for name, _ in fields}
    if b"host" not in names:
        fields.append((b"Host", authority.encode("ascii")))
    if names.isdisjoint((b"content-length", b"transfer-encoding")):
        if isinstance(body, bytes):
            fields.append((b"Content-Length", b"%d" % len(body)))
        elif body is not None:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif method in _BODY_METHODS:
            fields.append((b"Content-Length", b"0"))
    try:
        return h11.Request(method=method, target=target, headers=fields)
    except h11.LocalProtocolError as exc:
        raise ValueError(f"not a valid HTTP request: {exc}") from exc
