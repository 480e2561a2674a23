"""Writes to a bucket: PutObject, DeleteObject, and the calls of a client's own multipart upload.

Large objects are sent in parts. A client's own calls are forwarded with the edge's signature.
Bodies are streamed; the bucket's responses, refusals too, go to the viewer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from streamedge.origin.s3.listing import LISTING_MAX_BYTES, listing_query, translated_listing
from streamedge.origin.s3.multipart import abort_abandoned, put_in_parts
from streamedge.origin.s3.parts import OBJECT_MAX_BYTES
from streamedge.origin.s3.protocol import BucketCall, Operation, S3Call, encoded_query
from streamedge.origin.s3.requests import UNSIGNED, S3Requests
from streamedge.origin.spooling import Spool, gather, in_thread
from streamedge.origin.upload import Upload
from streamedge.origin.upload_records import UploadRecords
from streamedge.origin.writing import (
    RESPONSE_BODY_MAX_BYTES,
    HeaderFields,
    Write,
    WriteRefusedError,
    WriteResponse,
    conditions_of,
    refuse,
)

SINGLE_PUT_BYTES = 64 << 20
"""Objects up to this size are sent in one request."""


class S3Writer:
    """A ``WritableOrigin`` and an ``S3Relay`` over the part of ``bucket`` below ``prefix``."""

    def __init__(
        self,
        requests: S3Requests,
        bucket: str = "",
        prefix: str = "",
        *,
        read_timeout_s: float = 0.0,
        uploads: UploadRecords | None = None,
    ) -> None:
        self._requests = requests
        self._uploads = uploads
        self._read_timeout_s = read_timeout_s
        self._bucket = bucket
        folder = prefix.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._has_ended_abandoned = False

    def lingers_s(self, write: Write) -> float:
        """As ``WritableOrigin.lingers_s``: the time that a response is waited for.

        For an upload in parts 0 once ``end_abandoned`` has aborted what a dead process began: an
        aborted upload cannot be completed.
        """
        is_in_parts = (write.size_bytes or 0) > SINGLE_PUT_BYTES
        return 0.0 if is_in_parts and self._has_ended_abandoned else self._read_timeout_s

    async def end_abandoned(self) -> int:
        """As ``WritableOrigin.end_abandoned``: aborts multipart uploads."""
        if self._uploads is None:
            return 0
        self._has_ended_abandoned = False
        ended = await abort_abandoned(self._requests, self._uploads)
        self._has_ended_abandoned = True
        return ended

    async def check(self, write: Write) -> None:
        """As ``WritableOrigin.check``: the name and the size."""
        self._requests.check_name(write.name)
        if write.method != "DELETE":
            _upload(write, None)

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """As ``WritableOrigin.write``."""
        if write.method == "DELETE":
            conditions = conditions_of(write.fields)
            return await self._requests.send("DELETE", write.name, fields=conditions)
        try:
            upload = _upload(write, body)
            if upload.size_bytes is None or upload.size_bytes > SINGLE_PUT_BYTES:
                return await put_in_parts(self._requests, write.name, upload, self._uploads)
            return await self._send(upload, "PUT", write.name)
        except WriteRefusedError as exc:
            return exc.response

    async def relay(self, call: S3Call, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """Forwards a client's call; raises as ``write``. As with S3 itself, a response to COMPLETE
        may be an error with status 200.
        """
        operation = call.operation
        write = Write(operation.method, call.name, call.fields, call.size_bytes)
        try:
            match operation:
                case Operation.UPLOAD_PART:
                    upload = Upload(write, body)
                    return await self._send(upload, "PUT", call.name, call.query)
                case Operation.COMPLETE:
                    upload = Upload(write, body)
                    return await self._send(upload, "POST", call.name, call.query)
                case Operation.CREATE | Operation.ABORT | Operation.LIST_PARTS:
                    return await self._requests.send(
                        operation.method, call.name, call.query, call.fields
                    )
        except WriteRefusedError as exc:
            return exc.response

    async def call_bucket(self, call: BucketCall) -> WriteResponse:
        """As ``S3Relay.call_bucket``."""
        method = call.operation.method
        if not call.operation.is_listing:
            query = encoded_query(call.parameters)
            return await self._requests.send_to_bucket(method, query, RESPONSE_BODY_MAX_BYTES)
        query = listing_query(call, self._prefix)
        response = await self._requests.send_to_bucket(method, query, LISTING_MAX_BYTES)
        if not response.succeeded:
            return response
        translate = partial(translated_listing, response.body, call, self._bucket, self._prefix)
        # A thousand names take tens of milliseconds, so it runs in a thread.
        body = await in_thread(translate)
        return WriteResponse(200, (("Content-Type", "application/xml"),), body)

    async def _send(self, upload: Upload, method: str, name: str, query: str = "") -> WriteResponse:
        """Sends one request with the body. The last bytes are sent only if the checksums hold,
        because not every server of the protocol checks all of them.

        The request always has Content-Length, and checksums in its header: older servers accept
        neither chunked transfer nor trailers. So a body whose length or checksum comes at its end
        is spooled first.
        """
        if upload.trailer_names or upload.size_bytes is None:
            return await self._send_spooled(upload, method, name, query)
        pieces = _verified(upload)
        # The request starts with the first bytes of the viewer: SeaweedFS stores an empty object
        # for a request that is cut before them.
        first = await anext(pieces, b"")
        try:
            return await self._requests.send(
                method,
                name,
                query,
                upload.fields,
                body=_chain(first, pieces),
                size_bytes=upload.size_bytes,
                payload=_payload(upload.fields),
            )
        except Exception as exc:
            # The client may have reported the lost connection instead of the error of the body.
            if upload.failure is not None and exc is not upload.failure:
                raise upload.failure from exc
            raise

    async def _send_spooled(
        self, upload: Upload, method: str, name: str, query: str
    ) -> WriteResponse:
        verifier = upload.verifier()
        spool = Spool()
        try:
            try:
                await spool.fill(upload.pieces(), verifier.update)
            except OSError as exc:
                if upload.failure is exc:
                    raise
                raise refuse(507, "InsufficientStorage", "the edge's disk is full") from exc
            verifier.verify(upload.trailers)
            fields = upload.final_fields
            return await self._requests.send(
                method,
                name,
                query,
                fields,
                body=spool.pieces(),
                size_bytes=spool.size_bytes,
                payload=_payload(fields),
            )
        finally:
            await spool.close()


def _upload(write: Write, body: AsyncIterator[bytes] | None) -> Upload:
    """The object to put. Raises WriteRefusedError for a size that no object can have."""
    upload = Upload(write, body)
    if (upload.size_bytes or 0) > OBJECT_MAX_BYTES:
        raise refuse(413, "EntityTooLarge", "larger than S3's largest object")
    return upload


def _payload(fields: HeaderFields) -> str:
    """The viewer's hash of the body, which the bucket verifies, or UNSIGNED."""
    return next(
        (value for name, value in fields if name.lower() == "x-amz-content-sha256"), UNSIGNED
    )


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


async def _verified(upload: Upload) -> AsyncIterator[bytes]:
    """The object's bytes; the last piece is held back until all checksums are verified."""
    verifier = upload.verifier()
    if not verifier.is_needed:
        async for piece in upload.pieces():
            yield piece
        return
    last_piece = b""
    async for piece in gather(upload.pieces()):
        await in_thread(partial(verifier.update, piece))
        if last_piece:
            yield last_piece
        last_piece = piece
    try:
        verifier.verify(upload.trailers)
    except WriteRefusedError as exc:
        upload.failure = exc
        raise
    if last_piece:
        yield last_piece
