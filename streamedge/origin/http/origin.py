"""An origin that is any HTTP server, with objects below a base URL.

Maps names to URLs, and forwards requests. ``exchange`` reads objects.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable, Sequence

from streamedge.memo import Memo, MemoryBudget
from streamedge.origin import Fields, OriginRequest, OriginResponse
from streamedge.origin.http.exchange import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    READ_TIMEOUT_S,
    HttpObjects,
    parse_base_url,
)
from streamedge.origin.http_client.client import Interim, PreparedRequest, SentRequest
from streamedge.origin.http_client.request import at_target, split_url
from streamedge.origin.http_client.tls import system_tls
from streamedge.origin.names import object_key, site_path, site_target

PREPARED_BYTES_MAX = 1 << 20
"""Memory for encoded requests of one origin: those of pages that are passed through come again."""

_Prepared = tuple[str, str, Fields, PreparedRequest]
"""The subject of errors; the URL and the fields, for redirects; the encoded request."""

_Key = tuple[str, str, str, str, tuple[tuple[str, str], ...]]
_FieldsKey = tuple[str, tuple[tuple[str, str], ...]]

_DEFAULT_FIELDS = (("user-agent", "StreamEdge"), ("accept-encoding", "identity"))


class HttpOrigin(HttpObjects):
    """Objects at ``url``/``prefix``/name; an ``Upstream`` too.

    ``host`` is the Host to send: "origin" (the URL's), "viewer" (the request's, if it has one) or
    a name. For the other parameters see ``HttpObjects``. Raises ValueError for a URL that cannot
    be a base.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "",
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
        total_timeout_s: float = 0,
        tls: Callable[[], ssl.SSLContext] = system_tls,
        host: str = "origin",
        headers: Sequence[tuple[str, str]] = (),
        redirects_max: int = 0,
    ) -> None:
        self._base = parse_base_url(url)
        super().__init__(
            self._base,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            connections_max=connections_max,
            total_timeout_s=total_timeout_s,
            tls=tls,
            headers=headers if host in ("origin", "viewer") else (("Host", host), *headers),
            redirects_max=redirects_max,
        )
        self._prefix = prefix
        self._replaced = {name.lower() for name in self._own}
        if host != "viewer":
            self._replaced.add("host")
        self._budget = MemoryBudget(PREPARED_BYTES_MAX)
        self._requests: Memo[_Key, _Prepared] = self._budget.memo()
        self._fields: Memo[_FieldsKey, tuple[Fields, PreparedRequest]] = self._budget.memo()
        self._base_target = split_url(f"{self._base}/")[2].removesuffix("/")

    @property
    def prepared_bytes(self) -> int:
        """The memory of the encoded requests that it keeps, at most ``PREPARED_BYTES_MAX``."""
        return self._budget.used_bytes

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``. The origin's own fields replace the viewer's."""
        subject, url, fields, prepared = self._prepare(request)
        return await self._follow(
            subject,
            prepared,
            url,
            fields,
            body=request.body,
            interim=request.interim,
            trailers=lambda: _without(self._replaced, request.trailers()),
        )

    def send_at_once(self, request: OriginRequest, interim: Interim | None) -> SentRequest | None:
        """As ``ImmediateUpstream.send_at_once``; None too where redirects are followed."""
        if request.body is not None or self._redirects_max:
            return None
        subject, _url, _fields, prepared = self._prepared_before(request)
        return self.client.send_at_once(subject, prepared, interim)

    def _prepared_before(self, request: OriginRequest) -> _Prepared:
        """The encoded request, made now or for an equal one before."""
        key = request.method, request.path, request.name, request.query, request.fields
        prepared = self._requests.get(key)
        if prepared is None:
            prepared = self._prepare(request)
            self._requests.put(key, prepared, 8 * len(prepared[3].head.data))
        return prepared

    def _prepare(self, request: OriginRequest) -> _Prepared:
        path = site_target(self._prefix, request.path) if request.path else self._path(request.name)
        if request.query:
            path = f"{path}?{request.query}"
        subject, url = self._subject(request.name), f"{self._base}/{path}"
        if request.body is not None:
            fields = self._sent_fields(request)
            prepared = self.client.prepare(request.method, url, fields, request.body)
            return subject, url, fields, prepared
        fields, at_base = self._prepared_fields(request)
        head = at_target(at_base.head, f"{self._base_target}/{path}")
        return subject, url, fields, PreparedRequest(at_base.endpoint, head)

    def _address(self, name: str) -> str:
        return f"{self._base}/{self._path(name)}"

    def _path(self, name: str) -> str:
        return site_path(object_key(self._prefix, name))

    def _prepared_fields(self, request: OriginRequest) -> tuple[Fields, PreparedRequest]:
        """The fields of a request without a body, and a request with them for the base URL.

        Encoded now or for another request with these fields: a viewer's requests have equal ones.
        """
        key = request.method, request.fields
        prepared = self._fields.get(key)
        if prepared is None:
            fields = self._sent_fields(request)
            prepared = fields, self.client.prepare(request.method, f"{self._base}/", fields)
            self._fields.put(key, prepared, 8 * len(prepared[1].head.data))
        return prepared

    def _sent_fields(self, request: OriginRequest) -> Fields:
        fields = _without(self._replaced, request.fields)
        sent = {name.lower() for name, _value in fields}
        fields += self._own.items()
        fields += [field for field in _DEFAULT_FIELDS if field[0] not in sent | self._replaced]
        return fields


def _without(names: Collection[str], fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [field for field in fields if field[0].lower() not in names]
