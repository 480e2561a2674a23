"""The routes of CloudFront's API: signed requests in, CloudFront's XML out.

Every response has a request id, and every call writes one log line. The order is: check the
signature's header fields; verify the signature where the header has the digest of the body; read
the body within its size and time limits; verify the signature; find the operation; parse the input;
call the handler; serialize the output. AWS's own CloudFront clients do not send the digest, so only
a few bodies of unverified requests are read at one time. Everything but reading the body runs in a
thread. Only this part of the API uses Starlette.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from streamedge.api.errors import ApiError
from streamedge.api.protocol.answers import Answer, refusal
from streamedge.api.protocol.service import VERSION, Handlers
from streamedge.api.sigv4 import Claim, SignedRequest, read_claim
from streamedge.ops.log import Log

BODY_TIMEOUT_S = 30.0
UNPROVEN_BODIES_MAX = 8  # read at once
MEDIA_TYPE = "text/xml"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Whose calls are taken, and how large they may be.

    ``keys`` has the secret of each access key id; while there are none, the API is closed.
    """

    keys: Mapping[str, str] = field(repr=False)
    body_max_bytes: int


def api_routes(
    handlers: Callable[[], Handlers],
    settings: Callable[[], ApiSettings],
    log: Log,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> list[Route]:
    """Everything under ``/2020-05-31/``.

    ``handlers`` is called in a thread, at each call that is proven to be signed: the table may be
    created at the first. ``settings`` is called at each request, since a reload may change them.
    """
    front = _Front(handlers, settings, log, body_timeout_s)
    # A client whose endpoint ends with a slash may send two.
    return [Route(f"{slashes}{VERSION}/{{rest:path}}", front) for slashes in ("/", "//")]


class _Front:
    """The ASGI application of the routes; takes any method, for CloudFront's answer to all."""

    def __init__(
        self,
        handlers: Callable[[], Handlers],
        settings: Callable[[], ApiSettings],
        log: Log,
        body_timeout_s: float,
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self._log = log
        self._body_timeout_s = body_timeout_s
        self._unproven_bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        line = _Line(str(uuid.uuid4()), request.client.host if request.client else None)
        try:
            answer = await self._answer(request, line)
        except ClientDisconnect:
            line.write(self._log, 0, "the caller went away")
            return
        except ApiError as exc:
            answer = refusal(exc, line.request_id)
            line.write(self._log, exc.status, f"{exc.code}: {exc.message}")
        except Exception:  # noqa: BLE001 - the caller gets an answer; the log gets the cause
            failure = ApiError("InternalError", "We encountered an internal error.")
            answer = refusal(failure, line.request_id)
            line.write(self._log, failure.status, traceback.format_exc())
        else:
            line.write(self._log, answer.status, None)
        fields = {"x-amzn-RequestId": line.request_id, **answer.fields}
        media_type = MEDIA_TYPE if answer.body else None
        await Response(answer.body, answer.status, fields, media_type)(scope, receive, send)

    async def _answer(self, request: Request, line: _Line) -> Answer:
        settings = self._settings()
        if not settings.keys:
            raise ApiError("AccessDenied", "The API is closed: [api] of config.toml has no keys.")
        now_s = time.time()
        claim = read_claim(_signed_request(request), settings.keys, now_s)
        line.caller = claim.key_id
        body = await self._proving_body(request, claim, settings.body_max_bytes)
        address = f"{request.url.scheme}://{request.headers['host']}"
        return await run_in_threadpool(self._carry_out, claim, body, address, now_s, line)

    async def _proving_body(self, request: Request, claim: Claim, max_bytes: int) -> bytes:
        """The whole body. Raises ApiError, without reading where the header is enough to refuse."""
        declared = claim.request.values("x-amz-content-sha256")
        if declared:
            refused = claim.refusal(declared[0])
            if refused is not None:
                raise refused
        if declared or not _has_body(request):
            return await self._body(request, max_bytes)
        if self._unproven_bodies >= UNPROVEN_BODIES_MAX:
            reason = f"{UNPROVEN_BODIES_MAX} bodies are being read already. Try again."
            raise ApiError("ServiceUnavailable", reason)
        self._unproven_bodies += 1
        try:
            return await self._body(request, max_bytes)
        finally:
            self._unproven_bodies -= 1

    async def _body(self, request: Request, max_bytes: int) -> bytes:
        """The whole body. Raises ApiError when it is too large or comes too slowly."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                async for piece in request.stream():
                    body += piece
                    if len(body) > max_bytes:
                        reason = f"The body is larger than {max_bytes} bytes."
                        raise ApiError("EntitySizeLimitExceeded", reason)
        except TimeoutError as exc:
            reason = f"The body was not complete after {self._body_timeout_s:.0f} s."
            raise ApiError("RequestTimeout", reason) from exc
        return bytes(body)

    def _carry_out(
        self, claim: Claim, body: bytes, address: str, now_s: float, line: _Line
    ) -> Answer:
        # botocore takes 0.2 s to import, which no start of an edge shall wait for.
        from streamedge.api.protocol.execution import carry_out  # noqa: PLC0415

        return carry_out(self._handlers, claim, body, address, now_s, line.found_out)


class _Line:
    """The fields of a call's log line, as far as they are known."""

    def __init__(self, request_id: str, address: str | None) -> None:
        self.request_id = request_id
        self.address = address
        self.caller: str | None = None  # claimed; proven unless the status is 403
        self.operation: str | None = None

    def found_out(self, operation: str) -> None:
        self.operation = operation

    def write(self, log: Log, status: int, problem: str | None) -> None:
        log.event(
            "api_call",
            address=self.address,
            caller=self.caller,
            operation=self.operation,
            status=status,
            request_id=self.request_id,
            problem=problem,
        )


def _has_body(request: Request) -> bool:
    """Whether the head announces one (RFC 9112 §6.3)."""
    fields = request.headers
    return "transfer-encoding" in fields or fields.get("content-length", "0") != "0"


def _signed_request(request: Request) -> SignedRequest:
    fields = tuple(
        (name.decode("latin-1").lower(), _text(value)) for name, value in request.headers.raw
    )
    scope = request.scope
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return SignedRequest(request.method, path, query, fields)


def _text(value: bytes) -> str:
    """A field's value: UTF-8 as botocore sends it, or ISO 8859-1 as HTTP once had it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
