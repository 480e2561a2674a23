"""The routes of CloudFront's API: signed requests in, CloudFront's XML out.

Every response has a request id, and every call writes one log line. The order is: check the
signature's header fields; verify the signature where the header has the digest of the body; read
the body within its size and time limits; verify the signature; find the operation; parse the input;
call the handler; serialize the output. AWS's own CloudFront clients do not send the digest, so only
a few bodies of unverified requests are read at the same time. Everything but reading the body runs
in a thread. Only this part of the API uses Starlette.
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
from streamedge.api.protocol.responses import ApiResponse, error_response
from streamedge.api.protocol.service import API_VERSION, Handlers
from streamedge.api.sigv4 import Authorization, SignedRequest, parse_authorization
from streamedge.ops.log import Log

BODY_TIMEOUT_S = 30.0
UNVERIFIED_BODIES_MAX = 8  # bodies that are read at the same time
MEDIA_TYPE = "text/xml"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The access keys and the limit on bodies.

    ``keys`` has the secret of each access key id; without keys, the API refuses every call.
    """

    keys: Mapping[str, str] = field(repr=False)
    body_max_bytes: int


def api_routes(
    handlers: Callable[[], Handlers],
    settings: Callable[[], ApiSettings],
    log: Log,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> list[Route]:
    """The routes under ``/2020-05-31/``.

    ``handlers`` is called in a thread for each call with a valid signature, so the table may be
    created at the first one. ``settings`` is called for each request, because a reload may change
    them.
    """
    endpoint = _Endpoint(handlers, settings, log, body_timeout_s)
    # A client whose endpoint ends with a slash may send two.
    return [Route(f"{slashes}{API_VERSION}/{{rest:path}}", endpoint) for slashes in ("/", "//")]


class _Endpoint:
    """The ASGI application of the routes; it accepts any method, to answer as CloudFront does."""

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
        self._unverified_bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call_log = _CallLog(str(uuid.uuid4()), request.client.host if request.client else None)
        try:
            response = await self._respond(request, call_log)
        except ClientDisconnect:
            call_log.write(self._log, 0, "the caller went away")
            return
        except ApiError as exc:
            response = error_response(exc, call_log.request_id)
            call_log.write(self._log, exc.status, f"{exc.code}: {exc.message}")
        except Exception:  # noqa: BLE001 - the caller gets an error response; the log gets the cause
            failure = ApiError("InternalError", "We encountered an internal error.")
            response = error_response(failure, call_log.request_id)
            call_log.write(self._log, failure.status, traceback.format_exc())
        else:
            call_log.write(self._log, response.status, None)
        fields = {"x-amzn-RequestId": call_log.request_id, **response.fields}
        media_type = MEDIA_TYPE if response.body else None
        await Response(response.body, response.status, fields, media_type)(scope, receive, send)

    async def _respond(self, request: Request, call_log: _CallLog) -> ApiResponse:
        settings = self._settings()
        if not settings.keys:
            raise ApiError("AccessDenied", "The API is closed: [api] of config.toml has no keys.")
        now_s = time.time()
        authorization = parse_authorization(_signed_request(request), settings.keys, now_s)
        call_log.caller = authorization.key_id
        body = await self._limited_body(request, authorization, settings.body_max_bytes)
        address = f"{request.url.scheme}://{request.headers['host']}"
        return await run_in_threadpool(self._execute, authorization, body, address, now_s, call_log)

    async def _limited_body(
        self, request: Request, authorization: Authorization, max_bytes: int
    ) -> bytes:
        """The whole body. Raises ApiError, without reading it if the header is enough to refuse."""
        digests = authorization.request.values("x-amz-content-sha256")
        if digests:
            error = authorization.verification_error(digests[0])
            if error is not None:
                raise error
        if digests or not _has_body(request):
            return await self._body(request, max_bytes)
        if self._unverified_bodies >= UNVERIFIED_BODIES_MAX:
            reason = f"{UNVERIFIED_BODIES_MAX} bodies are being read already. Try again."
            raise ApiError("ServiceUnavailable", reason)
        self._unverified_bodies += 1
        try:
            return await self._body(request, max_bytes)
        finally:
            self._unverified_bodies -= 1

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

    def _execute(
        self,
        authorization: Authorization,
        body: bytes,
        address: str,
        now_s: float,
        call_log: _CallLog,
    ) -> ApiResponse:
        # Importing botocore takes 0.2 s; the start of an edge must not wait for it.
        from streamedge.api.protocol.execution import execute_call  # noqa: PLC0415

        return execute_call(
            self._handlers, authorization, body, address, now_s, call_log.set_operation
        )


class _CallLog:
    """Collects the fields of a call's log line."""

    def __init__(self, request_id: str, address: str | None) -> None:
        self.request_id = request_id
        self.address = address
        self.caller: str | None = None  # verified unless the status is 403
        self.operation: str | None = None

    def set_operation(self, operation: str) -> None:
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
    """Whether the header announces a body (RFC 9112 §6.3)."""
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
    """The value of a field: UTF-8, which botocore sends, or else ISO 8859-1, as in HTTP/1.0."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
