"""Which stored responses an unsafe method invalidates: RFC 9111 §4.4.

Pure: takes a request and its response, returns the targets whose stored responses become invalid.
The callers invalidate them.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 §9.2.1
_DEFAULT_PORTS = {"http": 80, "https": 443}


def invalidated_targets(
    method: str, status: int, host: str, target: str, fields: Mapping[str, str]
) -> list[str]:
    """The targets (path and query) on ``host`` that a response makes invalid (§4.4).

    After a 2xx or 3xx to a method that is not known to be safe: the request's own ``target``, and
    those of Location and Content-Location on the same host and port. ``host`` is the viewer's Host.
    """
    if method in _SAFE_METHODS or not 200 <= status < 400:
        return []
    targets = [target]
    for name in ("location", "content-location"):
        other = local_target(host, target, fields[name]) if name in fields else None
        if other is not None and other not in targets:
            targets.append(other)
    return targets


def local_target(host: str, target: str, reference: str) -> str | None:
    """Path and query of a URI reference in a response; None: it is on another host.

    ``reference`` is resolved against ``target`` on ``host`` (RFC 3986 §5). http and https count
    as one, because TLS may end before the origin.
    """
    try:
        base = urlsplit(f"http://{host}{target}")
        url = urlsplit(urljoin(base.geturl(), reference.strip(" \t")))
        if url.scheme not in _DEFAULT_PORTS or url.hostname != base.hostname:
            return None
        base_port = base.port or _DEFAULT_PORTS[url.scheme]
        if (url.port or _DEFAULT_PORTS[url.scheme]) != base_port:
            return None
    except ValueError:  # an impossible port or address
        return None
    path = url.path or "/"
    return f"{path}?{url.query}" if url.query else path
