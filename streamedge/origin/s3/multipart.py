"""Sends one object to a bucket as a multipart upload, while its bytes are received.

A few parts are sent at a time. On any failure the upload is aborted, so that no paid storage is
left. Parts are buffered in memory until the bucket has them, PARTS_IN_FLIGHT including the one that
is being received; parts above BUFFERED_PART_MAX_BYTES, of objects above 625 GiB, are streamed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from urllib.parse import quote

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.s3.parts import (
    BUFFERED_PART_MAX_BYTES,
    PARTS_MAX,
    completion,
    find_etag,
    find_upload_id,
    part_size_bytes,
)
from streamedge.origin.s3.requests import S3Requests, may_be_retried
from streamedge.origin.spooling import gather, in_thread
from streamedge.origin.upload import Upload
from streamedge.origin.upload_records import UploadRecord, UploadRecords
from streamedge.origin.writing import (
    WRITE_CONDITIONS,
    HeaderFields,
    WriteRefusedError,
    WriteResponse,
    conditions_of,
    refuse,
)

PARTS_IN_FLIGHT = 3
ATTEMPTS = 4
RETRY_S = 0.2  # doubled for each further attempt, with jitter

_CUSTOMER_KEY = "x-amz-server-side-encryption-customer-"
# Checksums of the whole object are verified here; requests for parts must not have them.
_OBJECT_CHECKSUMS = ("content-md5", "x-amz-checksum-", "x-amz-sdk-", "x-amz-content-sha256")


async def put_in_parts(
    requests: S3Requests, name: str, upload: Upload, records: UploadRecords | None = None
) -> WriteResponse:
    """Puts ``upload`` as the object ``name``. Raises as ``WritableOrigin.write``, and
    WriteRefusedError for refusals.

    With ``records`` the upload's id is on disk before the first part is sent, so that another
    process can abort the upload if this one dies.
    """
    multipart = _Multipart(requests, name, upload, records)
    await multipart.begin()
    try:
        etags = await multipart.send_parts()
        return await multipart.complete(etags)
    except BaseException:
        # Shielded: after a cancellation the parts must be deleted too.
        await asyncio.shield(multipart.abort())
        raise


async def abort_abandoned(requests: S3Requests, records: UploadRecords) -> int:
    """Aborts the uploads of processes that have died. Returns how many.

    A later call aborts each of them again, because parts in flight may arrive after the first
    abort (Amazon S3 API Reference, AbortMultipartUpload). Raises OriginError and OSError, also when
    the bucket has refused to abort any of them: a later call continues.
    """
    aborted, refused = 0, 0
    abandoned = records.abandoned()
    while (record := await in_thread(partial(next, abandoned, None))) is not None:
        try:
            query = f"uploadId={quote(record.upload_id, safe='~')}"
            response = await requests.send("DELETE", record.name, query)
        except BaseException:
            await in_thread(record.release)
            raise
        if response.status == 404 or (response.succeeded and record.was_aborted):
            await in_thread(record.remove)
        else:
            await in_thread(partial(record.release, aborted=response.succeeded))
            aborted += response.succeeded
            refused += not response.succeeded
    if refused:
        raise OriginError(
            OriginFailure.UNAVAILABLE, f"the bucket did not abort {refused} abandoned uploads"
        )
    return aborted


class _Multipart:
    def __init__(
        self, requests: S3Requests, name: str, upload: Upload, records: UploadRecords | None
    ) -> None:
        self._requests = requests
        self._records = records
        self._record: UploadRecord | None = None
        self._name = name
        self._upload = upload
        self._verifier = upload.verifier()
        self._upload_id = ""
        self._part_fields = tuple(
            field for field in upload.fields if field[0].lower().startswith(_CUSTOMER_KEY)
        )

    async def begin(self) -> None:
        beginning = asyncio.create_task(self._begin())
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # The bucket may have created an upload whose id is not received yet.
            await asyncio.gather(beginning, return_exceptions=True)
            if self._upload_id:
                await self.abort()
            raise

    async def _begin(self) -> None:
        fields = tuple(
            field
            for field in self._upload.fields
            if field[0].lower() not in WRITE_CONDITIONS
            and not field[0].lower().startswith(_OBJECT_CHECKSUMS)
        )
        response = await self._send_with_retries("POST", "uploads=", fields)
        self._upload_id = find_upload_id(response.body)
        if not self._upload_id:
            raise OriginError(
                OriginFailure.UNAVAILABLE,
                f"{self._name!a}: the response to CreateMultipartUpload has no id",
            )
        if self._records is not None:
            # Without a record the upload continues: only its abort after a crash is lost.
            with suppress(OSError):
                begin = partial(self._records.begin, self._name, self._upload_id)
                self._record = await in_thread(begin)

    async def send_parts(self) -> list[str]:
        """Sends the whole body. Returns the ETags of the parts. Raises as ``put_in_parts``."""
        pieces = _Gatherer(gather(self._upload.pieces()))
        total_bytes = self._upload.size_bytes
        etags: dict[int, str] = {}
        slots = asyncio.Semaphore(PARTS_IN_FLIGHT)

        async def send(number: int, data: bytes) -> None:
            try:
                etags[number] = await self._send_part(number, data)
            finally:
                slots.release()

        try:
            # A failed part ends the wait for more bytes from a slow viewer.
            async with asyncio.TaskGroup() as sending:
                number = 0
                while True:
                    size_bytes = part_size_bytes(number + 1, total_bytes)
                    if total_bytes is not None and size_bytes > BUFFERED_PART_MAX_BYTES:
                        number += 1
                        sent_bytes = min(size_bytes, total_bytes - pieces.consumed_bytes)
                        etags[number] = await self._stream_part(
                            number, pieces, size_bytes, sent_bytes
                        )
                        if await pieces.is_at_end():
                            break
                        continue
                    await slots.acquire()
                    data = await pieces.take(size_bytes)
                    if not data and number:
                        break
                    number += 1
                    if number > PARTS_MAX:
                        raise refuse(413, "EntityTooLarge", "too large for one upload")
                    await in_thread(partial(self._verifier.update, data))
                    sending.create_task(send(number, data))
                    if len(data) < size_bytes:
                        break
        except BaseExceptionGroup as group:
            raise _first(group) from group
        self._verifier.verify(self._upload.trailers)
        return [etags[number] for number in sorted(etags)]

    async def complete(self, etags: list[str]) -> WriteResponse:
        fields = self._part_fields + conditions_of(self._upload.fields)
        response = await self._send_with_retries(
            "POST", self._id_query(), fields, completion(etags)
        )
        await self._release_record()
        amz_fields = tuple(
            (name, value) for name, value in response.fields if name.lower().startswith("x-amz-")
        )
        return WriteResponse(200, (("ETag", find_etag(response.body)), *amz_fields))

    async def abort(self) -> None:
        """Deletes the parts at the bucket. Its failure must not hide the cause of the abort."""
        try:
            await self._send_with_retries("DELETE", self._id_query())
        except (OriginError, WriteRefusedError) as exc:
            if not isinstance(exc, WriteRefusedError) or exc.response.status != 404:
                # The bucket stores the parts until ``abort_abandoned`` aborts the upload.
                await self._release_record(is_ended=False)
                return
        await self._release_record()

    async def _release_record(self, *, is_ended: bool = True) -> None:
        record, self._record = self._record, None
        if record is not None:
            with suppress(OSError):  # a record that stays costs one useless abort
                await in_thread(record.remove if is_ended else record.release)

    async def _send_part(self, number: int, data: bytes) -> str:
        query = f"partNumber={number}&{self._id_query()}"
        response = await self._send_with_retries("PUT", query, self._part_fields, data)
        return response.field("etag")

    async def _stream_part(
        self, number: int, pieces: _Gatherer, size_bytes: int, sent_bytes: int
    ) -> str:
        async def verified() -> AsyncIterator[bytes]:
            async for piece in pieces.stream(size_bytes):
                await in_thread(partial(self._verifier.update, piece))
                yield piece

        response = await self._requests.send(
            "PUT",
            self._name,
            f"partNumber={number}&{self._id_query()}",
            self._part_fields,
            body=verified(),
            size_bytes=sent_bytes,
        )
        return _require_success(response).field("etag")

    def _id_query(self) -> str:
        return f"uploadId={quote(self._upload_id, safe='~')}"

    async def _send_with_retries(
        self, method: str, query: str, fields: HeaderFields = (), body: bytes | None = None
    ) -> WriteResponse:
        """Sends a request, and repeats it after transient failures; ATTEMPTS times at most.

        Raises OriginError, or WriteRefusedError with the response that is not a success.
        """
        failure: OriginError | None = None
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._requests.send(method, self._name, query, fields, body=body)
            except OriginError as exc:
                if attempt == ATTEMPTS or not exc.retryable:
                    raise
                failure = exc
            else:
                if attempt == ATTEMPTS or not may_be_retried(response):
                    if failure is not None and response.status == 404:
                        # The upload has ended meanwhile; whether successfully is not known.
                        raise failure
                    return _require_success(response)
            await asyncio.sleep(RETRY_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))


class _Gatherer:
    """Divides a body into parts, independent of its pieces."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.consumed_bytes = 0

    async def take(self, size_bytes: int) -> bytes:
        """The next ``size_bytes``, or fewer at the end."""
        return b"".join([piece async for piece in self.stream(size_bytes)])

    async def stream(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The next ``size_bytes`` in pieces, or fewer at the end."""
        while size_bytes and not await self.is_at_end():
            piece, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
            size_bytes -= len(piece)
            self.consumed_bytes += len(piece)
            yield piece

    async def is_at_end(self) -> bool:
        """Whether no byte is left; waits for the next piece if necessary."""
        if not self._rest:
            self._rest = await anext(self._pieces, b"")
        return not self._rest


def _require_success(response: WriteResponse) -> WriteResponse:
    """Returns a success, or raises WriteRefusedError. An error may have status 200 too."""
    code = find_error_code(response.body)
    if response.succeeded and code:
        response = WriteResponse(
            503 if may_be_retried(response) else 500, response.fields, response.body
        )
    if not response.succeeded:
        raise WriteRefusedError(response, f"answered {response.status} {code}")
    return response


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
