"""Sends one signed request with a body to a bucket, and reads its short response.

Makes the header (signature, framing) and filters the response's fields for the viewer. One attempt
per call; retries are in ``multipart``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from streamedge.errors import OriginError, OriginFailure
from streamedge.http_fields import HOP_BY_HOP
from streamedge.origin.answers import find_error_code
from streamedge.origin.writing import RESPONSE_BODY_MAX_BYTES, HeaderFields, WriteResponse

if TYPE_CHECKING:
    from streamedge.origin.http_client.client import Client, Response

UNSIGNED = "UNSIGNED-PAYLOAD"
EXPECT_CONTINUE_BYTES = 1 << 20  # for smaller bodies, the round trip costs more than it saves

SignWrite = Callable[[str, str, Mapping[str, str], str], Awaitable[dict[str, str]]]
"""``Signer.sign_write``."""

_RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_RETRYABLE_CODES = frozenset({"RequestTimeout", "RequestTimeTooSkewed", "SlowDown"})

# The edge sets these itself.
_DROPPED_FIELDS = HOP_BY_HOP | {"content-length", "date", "server"}


class S3Requests:
    """Signed requests to one bucket.

    ``address`` returns an object's URL, percent-encoded, or raises OriginError; ``bucket_url`` is
    the bucket's, with a final slash. ``sign`` is None for a public bucket. ``headers`` are sent
    with every request and replace a write's own.
    """

    def __init__(
        self,
        label: str,
        address: Callable[[str], str],
        client: Client,
        sign: SignWrite | None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        bucket_url: str = "",
    ) -> None:
        self._label = label
        self._address = address
        self._bucket_url = bucket_url
        self._client = client
        self._sign = sign
        self._headers = {"user-agent": "StreamEdge", **_join_repeated(headers)}

    def check_name(self, name: str) -> None:
        """Raises OriginError NOT_FOUND for a name that no object can have."""
        self._address(name)

    async def send(
        self,
        method: str,
        name: str,
        query: str = "",
        fields: HeaderFields = (),
        *,
        body: AsyncIterator[bytes] | bytes | None = None,
        size_bytes: int | None = None,
        payload: str = UNSIGNED,
    ) -> WriteResponse:
        """Sends ``body``, of ``size_bytes`` if known, and reads the response.

        ``query`` is percent-encoded; ``payload`` is the body's hash in the signature.
        Raises OriginError, and what ``body`` raises.
        """
        url = self._address(name) + (f"?{query}" if query else "")
        return await self._send(
            f"{self._label} {name!a}", method, url, fields, body, size_bytes, payload
        )

    async def send_to_bucket(
        self, method: str, query: str, response_bytes_max: int
    ) -> WriteResponse:
        """Sends a request for the bucket itself. Raises OriginError, also for a longer response."""
        url = self._bucket_url + (f"?{query}" if query else "")
        response = await self._send(
            self._label, method, url, (), None, None, UNSIGNED, response_bytes_max + 1
        )
        if len(response.body) > response_bytes_max:
            text = f"{self._label}: answered with more than {response_bytes_max} bytes"
            raise OriginError(OriginFailure.UNAVAILABLE, text)
        return response

    async def _send(
        self,
        subject: str,
        method: str,
        url: str,
        fields: HeaderFields,
        body: AsyncIterator[bytes] | bytes | None,
        size_bytes: int | None,
        payload: str,
        response_bytes_max: int = RESPONSE_BODY_MAX_BYTES,
    ) -> WriteResponse:
        common_fields = _join_repeated(fields) | self._headers
        amz_fields = {
            name: value for name, value in common_fields.items() if name.startswith("x-amz-")
        }
        amz_fields.pop("x-amz-content-sha256", None)
        headers = dict(common_fields)
        if self._sign is None:
            headers["x-amz-content-sha256"] = payload
        else:
            for name in amz_fields:
                del headers[name]
            headers.pop("x-amz-content-sha256", None)
            headers |= await self._sign(method, url, amz_fields, payload)
        if isinstance(body, bytes):
            size_bytes = len(body)
        if body is not None and size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        is_stream = body is not None and not isinstance(body, bytes)
        if is_stream and (size_bytes is None or size_bytes >= EXPECT_CONTINUE_BYTES):
            headers["Expect"] = "100-continue"
        response = await self._client.send(subject, method, url, headers, body=body)
        try:
            return await _collect(response, response_bytes_max)
        finally:
            response.close()


def may_be_retried(response: WriteResponse) -> bool:
    """Whether repeating the request may help."""
    return (
        response.status in _RETRYABLE_STATUSES or find_error_code(response.body) in _RETRYABLE_CODES
    )


async def _collect(response: Response, bytes_max: int) -> WriteResponse:
    body = bytearray()
    async for piece in response.body():
        body += piece
        if len(body) > bytes_max:
            del body[bytes_max:]
            break
    fields = tuple(
        (name, value) for name, value in response.fields if name.lower() not in _DROPPED_FIELDS
    )
    return WriteResponse(response.status, fields, bytes(body))


def _join_repeated(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields_by_name: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        fields_by_name[lower] = (
            f"{fields_by_name[lower]},{value}" if lower in fields_by_name else value
        )
    return fields_by_name
