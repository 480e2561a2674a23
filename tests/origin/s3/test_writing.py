"""Writes to a real bucket, single and in parts, and uploads of boto3 through the edge."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.http_client.client import Client, Response
from streamedge.origin.names import object_path
from streamedge.origin.s3 import multipart as s3_multipart
from streamedge.origin.s3 import writing as s3_writing
from streamedge.origin.s3.multipart import abort_abandoned
from streamedge.origin.s3.origin import bucket_url
from streamedge.origin.s3.parts import OBJECT_MAX_BYTES
from streamedge.origin.s3.protocol import read_call
from streamedge.origin.s3.requests import S3Requests
from streamedge.origin.s3.signing import GivenCredentials, Signer
from streamedge.origin.s3.writing import SINGLE_PUT_BYTES, S3Writer
from streamedge.origin.upload_records import UploadRecords
from streamedge.origin.writing import Write, WriteRefusedError
from tests.support.origins.s3_bridge import S3Bridge
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S

BUCKET = "videos"
MIB = 1 << 20
FILM = os.urandom(MIB) * 20
HELLO_CRC32 = base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big")).decode()

Fault = Callable[[str, str], OriginFailure | None]


class FaultyClient(Client):
    """The real client. ``fault`` is called with the method and URL of each request, and may fail
    it: before it is sent, or for BROKEN after the bucket has carried it out.
    """

    def __init__(self) -> None:
        super().__init__(connect_timeout_s=5, read_timeout_s=20, connections_max=16)
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Fault = lambda _method, _url: None

    async def send(self, subject: str, method: str, url: str, *args: Any, **more: Any) -> Response:
        self.requests.append((method, url.partition("?")[2].partition("uploadId")[0]))
        self.headers.append({name.lower(): value for name, value in args[0].items()})
        failure = self.fault(method, url)
        if failure is None:
            return await super().send(subject, method, url, *args, **more)
        if failure is OriginFailure.BROKEN:
            (await super().send(subject, method, url, *args, **more)).close()
        raise OriginError(failure, "as scripted")


@pytest.fixture
async def client() -> AsyncIterator[FaultyClient]:
    client = FaultyClient()
    yield client
    await client.close()


@pytest.fixture(name="requests")
def _requests(s3: S3Server, client: FaultyClient) -> S3Requests:
    base = bucket_url(BUCKET, s3.region, s3.endpoint)
    keys = GivenCredentials(s3.access_key_id, s3.secret_access_key)
    return S3Requests(
        f"s3://{BUCKET}",
        lambda name: f"{base}/{object_path('', name)}",
        client,
        Signer(s3.region, keys).sign_write,
    )


@pytest.fixture
def writer(requests: S3Requests) -> S3Writer:
    return S3Writer(requests)


async def test_check_refuses_names_and_sizes_without_a_request(
    writer: S3Writer, client: FaultyClient
) -> None:
    for method in ("PUT", "DELETE"):
        for name in ("a/../b", "n" * 1025):
            with pytest.raises(OriginError) as failure:
                await writer.check(Write(method, name))
            assert failure.value.failure is OriginFailure.NOT_FOUND
        await writer.check(Write(method, "film", (("If-Match", '"0"'),), 5))
    with pytest.raises(WriteRefusedError, match="413 EntityTooLarge"):
        await writer.check(Write("PUT", "film", (), OBJECT_MAX_BYTES + 1))
    assert client.requests == []


async def test_abandoned_uploads_are_aborted_when_the_bucket_can_be_reached(
    s3: S3Server, requests: S3Requests, client: FaultyClient, tmp_path: Path
) -> None:
    records = UploadRecords(tmp_path / "uploads", "s3")
    for number in range(3):
        upload = s3.client.create_multipart_upload(Bucket=BUCKET, Key=f"w/abandoned {number}")
        records.begin(upload["Key"], upload["UploadId"]).release()
    client.fault = lambda _method, _url: OriginFailure.REFUSED
    with pytest.raises(OriginError):
        await abort_abandoned(requests, records)
    client.fault = lambda _method, _url: None
    assert await abort_abandoned(requests, records) == 3
    assert sum(uploads(s3, f"w/abandoned {number}") for number in range(3)) == 0
    await abort_abandoned(requests, records)  # once more, for parts that were in flight
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_upload_in_parts_may_still_arrive_until_abandoned_ones_are_aborted(
    s3: S3Server, requests: S3Requests, client: FaultyClient, tmp_path: Path
) -> None:
    records = UploadRecords(tmp_path / "uploads", "s3")
    upload = s3.client.create_multipart_upload(Bucket=BUCKET, Key="w/left")
    records.begin(upload["Key"], upload["UploadId"]).release()
    writer = S3Writer(requests, uploads=records, read_timeout_s=30.0)
    large = Write("PUT", "w/left", (), SINGLE_PUT_BYTES + 1)
    client.fault = lambda _method, _url: OriginFailure.REFUSED
    with pytest.raises(OriginError):
        await writer.end_abandoned()
    assert writer.lingers_s(large) == 30.0
    client.fault = lambda _method, _url: None
    assert await writer.end_abandoned() == 1
    assert writer.lingers_s(large) == 0.0
    assert writer.lingers_s(Write("PUT", "w/small", (), 1000)) == 30.0


async def test_upload_that_ends_leaves_no_record(
    s3: S3Server, requests: S3Requests, client: FaultyClient, tmp_path: Path
) -> None:
    records = UploadRecords(tmp_path / "uploads", "s3")
    recorded = S3Writer(requests, uploads=records)
    assert (await recorded.write(Write("PUT", "w/recorded", (), None), body_of(FILM))).succeeded
    client.fault = lambda _method, url: OriginFailure.REFUSED if "partNumber=2" in url else None
    with pytest.raises(OriginError):
        await recorded.write(Write("PUT", "w/broken off", (), None), body_of(FILM))
    assert list((tmp_path / "uploads").iterdir()) == []
    assert uploads(s3, "w/broken off") == 0


@pytest.fixture
async def bridge(writer: S3Writer) -> AsyncIterator[S3Bridge]:
    async with S3Bridge(writer, BUCKET) as bridge:
        yield bridge


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def stored(s3: S3Server, name: str) -> Any:
    return s3.client.get_object(Bucket=BUCKET, Key=name, ChecksumMode="ENABLED")


def exists(s3: S3Server, name: str) -> bool:
    return "Contents" in s3.client.list_objects_v2(Bucket=BUCKET, Prefix=name)


def uploads(s3: S3Server, name: str) -> int:
    """The number of unfinished uploads."""
    listing = s3.client.list_multipart_uploads(Bucket=BUCKET)
    return sum(upload["Key"] == name for upload in listing.get("Uploads", ()))


async def test_put_stores_all_object_fields(s3: S3Server, writer: S3Writer) -> None:
    fields = (
        ("Content-Type", "video/x-own"),
        ("Content-Encoding", "gzip"),
        ("Content-Disposition", "inline"),
        ("Cache-Control", "max-age=5"),
        ("x-amz-meta-title", "an  odd   title"),
        ("Content-MD5", base64.b64encode(hashlib.md5(b"hello").digest()).decode()),
    )
    write = Write("PUT", "w/a +b.mp4", fields, 5)
    answer = await writer.write(write, body_of(b"he", b"llo"))
    assert answer.status == 200
    result = stored(s3, "w/a +b.mp4")
    assert result["Body"].read() == b"hello"
    assert answer.field("etag") == result["ETag"]
    assert (result["ContentType"], result["ContentEncoding"]) == (
        "video/x-own",
        "gzip",
    )
    assert (result["ContentDisposition"], result["CacheControl"]) == (
        "inline",
        "max-age=5",
    )
    assert result["Metadata"] == {"title": "an  odd   title"}


async def test_empty_object_is_stored_and_deleted(s3: S3Server, writer: S3Writer) -> None:
    assert (await writer.write(Write("PUT", "w/empty", (), 0), body_of())).status == 200
    assert stored(s3, "w/empty")["Body"].read() == b""
    assert (await writer.write(Write("DELETE", "w/empty"), None)).status == 204
    assert not exists(s3, "w/empty")


@pytest.mark.parametrize("size_bytes", [5, None], ids=["one request", "in parts"])
async def test_conditions_are_checked_by_the_bucket(
    s3: S3Server, writer: S3Writer, size_bytes: int | None
) -> None:
    name = f"w/conditional-{size_bytes}"
    new = (("If-None-Match", "*"),)
    first = await writer.write(Write("PUT", name, new, size_bytes), body_of(b"first"))
    assert first.status == 200
    again = await writer.write(Write("PUT", name, new, size_bytes), body_of(b"again"))
    assert again.status == 412
    assert b"PreconditionFailed" in again.body
    lost = (("If-Match", '"0"'),)
    assert (
        await writer.write(Write("PUT", name, lost, size_bytes), body_of(b"again"))
    ).status == 412
    assert (await writer.write(Write("DELETE", name, lost), None)).status == 412
    assert stored(s3, name)["Body"].read() == b"first"
    right = (("If-Match", first.field("etag")),)
    assert (await writer.write(Write("PUT", name, right, size_bytes), body_of(b"later"))).succeeded
    assert stored(s3, name)["Body"].read() == b"later"
    assert uploads(s3, name) == 0


@pytest.mark.parametrize(
    "field",
    [
        ("Content-MD5", base64.b64encode(bytes(16)).decode()),
        ("x-amz-content-sha256", "0" * 64),
        ("x-amz-checksum-crc32", "AAAAAA=="),
    ],
)
@pytest.mark.parametrize("size_bytes", [5, None], ids=["one request", "in parts"])
async def test_wrong_checksum_stores_nothing(
    s3: S3Server, writer: S3Writer, field: tuple[str, str], size_bytes: int | None
) -> None:
    name = f"w/wrong-{field[0]}-{size_bytes}"
    answer = await writer.write(Write("PUT", name, (field,), size_bytes), body_of(b"hello"))
    assert answer.status == 400
    assert not exists(s3, name)
    assert uploads(s3, name) == 0


@pytest.mark.parametrize("decoded_size", ["5", ""], ids=["one request", "in parts"])
@pytest.mark.parametrize(("body", "status"), [(b"hello", 200), (b"hellO", 400)])
async def test_trailing_checksum_is_verified(
    s3: S3Server, writer: S3Writer, body: bytes, status: int, decoded_size: str
) -> None:
    fields = [
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
    ]
    if decoded_size:
        fields.append(("x-amz-decoded-content-length", decoded_size))
    sent = b"5;chunk-signature=%b\r\n%b\r\n0;chunk-signature=%b\r\n" % (b"0" * 64, body, b"0" * 64)
    end = f"x-amz-checksum-crc32:{HELLO_CRC32}\r\nx-amz-trailer-signature:{'0' * 64}\r\n\r\n"
    name = f"w/trailing-{status}-{decoded_size}"
    write = Write("PUT", name, tuple(fields), len(sent) + len(end))
    assert (await writer.write(write, body_of(sent, end.encode()))).status == status
    assert exists(s3, name) == (status == 200)
    if status == 200:
        result = stored(s3, name)
        assert result["Body"].read() == body
        assert "ContentEncoding" not in result
        if decoded_size:
            assert result["ChecksumCRC32"] == HELLO_CRC32


@pytest.mark.parametrize("size_bytes", [5, 3 * MIB], ids=["in memory", "in a file"])
@pytest.mark.parametrize("has_length", [True, False])
async def test_every_request_with_a_body_states_its_length(
    s3: S3Server, writer: S3Writer, client: FaultyClient, size_bytes: int, has_length: bool
) -> None:
    """Servers that take neither chunked transfer nor trailers answer 411 or store their framing."""
    body = FILM[:size_bytes]
    checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    fields = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ]
    if has_length:
        fields.append(("x-amz-decoded-content-length", str(size_bytes)))
    coded = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n"
    sent = coded % (size_bytes, body, checksum.encode())
    at = {"Bucket": BUCKET, "Key": f"w/lengths {size_bytes} {has_length}"}
    upload_id = s3.client.create_multipart_upload(**at)["UploadId"]
    call = read_call("PUT", at["Key"], f"partNumber=1&uploadId={upload_id}", fields, len(sent))
    assert call is not None
    assert (await writer.relay(call, body_of(sent))).status == 200
    assert (
        await writer.write(Write("PUT", at["Key"], tuple(fields), None), body_of(sent))
    ).succeeded
    assert stored(s3, at["Key"])["Body"].read() == body
    puts = [
        headers
        for (method, _query), headers in zip(client.requests, client.headers, strict=True)
        if method == "PUT"
    ]
    assert [headers["content-length"] for headers in puts] == [str(size_bytes)] * 2
    assert not any({"transfer-encoding", "x-amz-trailer"} & headers.keys() for headers in puts)
    assert puts[0]["x-amz-checksum-crc32"] == checksum


async def test_object_of_unknown_length_is_sent_in_parts_while_it_arrives(
    s3: S3Server, writer: S3Writer, client: FaultyClient
) -> None:
    sent = asyncio.Event()
    client.fault = lambda method, _url: sent.set() if method == "PUT" else None

    async def slow() -> AsyncIterator[bytes]:
        for at in range(0, len(FILM), MIB):
            if at == 9 * MIB:
                await asyncio.wait_for(
                    sent.wait(), PATIENCE_S
                )  # the first part is sent before the end
            yield FILM[at : at + MIB]

    fields = (("Content-Type", "video/x-own"), ("x-amz-meta-a", "1"))
    answer = await writer.write(Write("PUT", "w/parts", fields, None), slow())
    result = stored(s3, "w/parts")
    assert result["Body"].read() == FILM
    assert answer.field("etag") == result["ETag"]
    assert result["ETag"].endswith('-3"')
    assert (result["ContentType"], result["Metadata"]) == ("video/x-own", {"a": "1"})


async def test_large_object_of_known_length_is_sent_in_parts(
    s3: S3Server, writer: S3Writer, client: FaultyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_writing, "SINGLE_PUT_BYTES", 10 * MIB)
    fields = (("x-amz-content-sha256", hashlib.sha256(FILM).hexdigest()),)
    write = Write("PUT", "w/large", fields, len(FILM))
    assert (await writer.write(write, body_of(FILM))).status == 200
    assert stored(s3, "w/large")["Body"].read() == FILM
    assert client.requests.count(("PUT", "")) == 0


async def test_very_large_parts_are_streamed(
    s3: S3Server, writer: S3Writer, client: FaultyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_writing, "SINGLE_PUT_BYTES", 10 * MIB)
    monkeypatch.setattr(s3_multipart, "BUFFERED_PART_MAX_BYTES", 1 * MIB)
    for size_bytes in (16 * MIB, len(FILM)):
        checksum = base64.b64encode(hashlib.sha256(FILM[:size_bytes]).digest()).decode()
        write = Write("PUT", "w/passed", (("x-amz-checksum-sha256", checksum),), size_bytes)
        answer = await writer.write(write, body_of(FILM[:MIB], FILM[MIB:size_bytes]))
        assert answer.status == 200
        assert stored(s3, "w/passed")["Body"].read() == FILM[:size_bytes]
    assert [query for method, query in client.requests if method == "PUT"] == [
        *("partNumber=1&", "partNumber=2&"),
        *("partNumber=1&", "partNumber=2&", "partNumber=3&"),
    ]


async def test_empty_body_of_unknown_length_is_stored(s3: S3Server, writer: S3Writer) -> None:
    assert (await writer.write(Write("PUT", "w/nothing", (), None), body_of())).status == 200
    assert stored(s3, "w/nothing")["Body"].read() == b""


@pytest.mark.parametrize("failure", [OriginFailure.TIMEOUT, OriginFailure.BROKEN])
async def test_each_step_is_retried(
    s3: S3Server, writer: S3Writer, client: FaultyClient, failure: OriginFailure
) -> None:
    failed_steps: set[tuple[str, str]] = set()

    def once(method: str, url: str) -> OriginFailure | None:
        step = (method, url.partition("?")[2].partition("=")[0])
        if step in failed_steps or (step[0] == "POST" and failure is OriginFailure.BROKEN):
            return None
        failed_steps.add(step)
        return failure

    client.fault = once
    name = f"w/again-{failure.value}"
    assert (await writer.write(Write("PUT", name, (), None), body_of(FILM))).status == 200
    assert stored(s3, name)["Body"].read() == FILM


def is_completion(method: str, url: str) -> bool:
    return method == "POST" and "uploadId" in url


async def test_completion_with_a_lost_response_is_retried(
    s3: S3Server, writer: S3Writer, client: FaultyClient
) -> None:
    faults = iter([OriginFailure.BROKEN])
    client.fault = lambda method, url: next(faults, None) if is_completion(method, url) else None
    assert (await writer.write(Write("PUT", "w/lost", (), None), body_of(b"hello"))).status == 200
    assert client.requests.count(("POST", "")) == 2
    assert stored(s3, "w/lost")["Body"].read() == b"hello"


async def test_upload_missing_after_a_lost_response_may_have_been_completed(
    s3: S3Server, writer: S3Writer, client: FaultyClient
) -> None:
    """The result is unknown, so neither success nor a refusal is reported."""
    completions = 0

    def lose(method: str, url: str) -> OriginFailure | None:
        nonlocal completions
        completions += is_completion(method, url)
        if not is_completion(method, url):
            return None
        if completions == 1:
            return OriginFailure.TIMEOUT
        upload_id = unquote(url.partition("uploadId=")[2])
        s3.client.abort_multipart_upload(Bucket=BUCKET, Key="w/gone", UploadId=upload_id)
        return None

    client.fault = lose
    with pytest.raises(OriginError) as caught:
        await writer.write(Write("PUT", "w/gone", (), None), body_of(b"hello"))
    assert caught.value.failure is OriginFailure.TIMEOUT
    assert completions == 2


async def test_permanently_failed_part_aborts_while_the_viewer_sends_nothing(
    s3: S3Server, writer: S3Writer, client: FaultyClient
) -> None:
    client.fault = lambda method, _url: OriginFailure.FORBIDDEN if method == "PUT" else None

    async def stuck() -> AsyncIterator[bytes]:
        yield FILM[: 9 * MIB]
        await asyncio.Event().wait()

    with pytest.raises(OriginError) as caught:
        await asyncio.wait_for(writer.write(Write("PUT", "w/stuck", (), None), stuck()), PATIENCE_S)
    assert caught.value.failure is OriginFailure.FORBIDDEN
    assert client.requests[-1][0] == "DELETE"
    assert uploads(s3, "w/stuck") == 0


async def test_disconnected_viewer_aborts_the_upload(s3: S3Server, writer: S3Writer) -> None:
    async def leave() -> AsyncIterator[bytes]:
        yield FILM[: 9 * MIB]
        raise ConnectionResetError

    async def leave_at_once() -> AsyncIterator[bytes]:
        raise ConnectionResetError
        yield b""

    for size_bytes in (None, 10 * MIB):
        for body in (leave(), leave_at_once()):
            with pytest.raises(ConnectionResetError):
                await writer.write(Write("PUT", "w/left", (), size_bytes), body)
    assert uploads(s3, "w/left") == 0
    assert not exists(s3, "w/left")


@pytest.mark.parametrize("step", ["POST", "PUT"])
async def test_cancellation_aborts_the_upload(
    s3: S3Server, writer: S3Writer, client: FaultyClient, step: str
) -> None:
    name = f"w/cancelled-{step}"
    writing: asyncio.Task[object] | None = None

    def cancel(method: str, _url: str) -> None:
        if method == step:
            assert writing is not None
            writing.cancel()

    client.fault = cancel
    writing = asyncio.create_task(writer.write(Write("PUT", name, (), None), body_of(FILM)))
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert client.requests[-1][0] == "DELETE"
    assert uploads(s3, name) == 0
    assert not exists(s3, name)


async def test_refusal_of_a_part_is_the_response(s3: S3Server, client: FaultyClient) -> None:
    base = bucket_url(BUCKET, s3.region, s3.endpoint)
    keys = GivenCredentials(s3.access_key_id, "wrong")
    requests = S3Requests("s3", lambda name: f"{base}/{name}", client, Signer("x", keys).sign_write)
    for size_bytes in (None, 5):
        answer = await S3Writer(requests).write(
            Write("PUT", "a", (), size_bytes), body_of(b"hello")
        )
        assert answer.status == 403
        assert b"SignatureDoesNotMatch" in answer.body


def edge_client(bridge: S3Bridge) -> Any:
    """boto3 with keys that are unknown to the bucket."""
    return boto3.client(
        "s3",
        endpoint_url=bridge.url,
        region_name="us-east-1",
        aws_access_key_id="viewer",
        aws_secret_access_key="viewer-secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


async def test_upload_file_of_boto3_stores_the_object(
    s3: S3Server, bridge: S3Bridge, tmp_path: Path
) -> None:
    film = tmp_path / "film"
    film.write_bytes(FILM)
    viewer = edge_client(bridge)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    extra = {"ContentType": "video/x-own", "Metadata": {"a": "b"}}
    await asyncio.to_thread(
        viewer.upload_file, str(film), BUCKET, "w/own clïent.mp4", ExtraArgs=extra, Config=config
    )
    viewer.close()
    result = stored(s3, "w/own clïent.mp4")
    assert result["Body"].read() == FILM
    assert result["ETag"].endswith('-4"')
    assert (result["ContentType"], result["Metadata"]) == ("video/x-own", {"a": "b"})
    assert [method for method, _ in bridge.requests].count("PUT") == 4


async def test_multipart_calls_of_boto3_are_forwarded(s3: S3Server, bridge: S3Bridge) -> None:
    viewer = edge_client(bridge)
    at = {"Bucket": BUCKET, "Key": "w/calls"}

    def talk() -> None:
        viewer.put_object(**at, Body=b"first")
        assert stored(s3, "w/calls")["Body"].read() == b"first"
        with pytest.raises(ClientError, match="PreconditionFailed"):
            viewer.put_object(**at, Body=b"again", IfNoneMatch="*")
        upload = at | {"UploadId": viewer.create_multipart_upload(**at)["UploadId"]}
        for number in (1, 2, 3):
            viewer.upload_part(**upload, PartNumber=number, Body=FILM[: 5 * MIB])
        listed = viewer.list_parts(**upload, MaxParts=2)
        assert [part["PartNumber"] for part in listed["Parts"]] == [1, 2]
        assert listed["IsTruncated"]
        viewer.abort_multipart_upload(**upload)
        assert uploads(s3, "w/calls") == 0
        with pytest.raises(ClientError, match="NoSuchUpload"):
            viewer.list_parts(**upload)
        viewer.delete_object(**at)
        assert not exists(s3, "w/calls")
        with pytest.raises(ClientError, match="NotImplemented"):
            viewer.put_object_tagging(**at, Tagging={"TagSet": []})

    await asyncio.to_thread(talk)
    viewer.close()


async def test_trailing_checksum_of_a_part_is_verified(s3: S3Server, writer: S3Writer) -> None:
    upload_id = s3.client.create_multipart_upload(
        Bucket=BUCKET, Key="w/part", ChecksumAlgorithm="CRC32"
    )["UploadId"]
    fields = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("x-amz-decoded-content-length", "5"),
    ]
    body = f"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{HELLO_CRC32}\r\n\r\n".encode()
    query = f"partNumber=1&uploadId={upload_id}&x-id=UploadPart"
    call = read_call("PUT", "w/part", query, fields, len(body))
    assert call is not None
    answer = await writer.relay(call, body_of(body))
    assert answer.status == 200
    part = {"PartNumber": 1, "ETag": answer.field("etag"), "ChecksumCRC32": HELLO_CRC32}
    s3.client.complete_multipart_upload(
        Bucket=BUCKET, Key="w/part", UploadId=upload_id, MultipartUpload={"Parts": [part]}
    )
    assert stored(s3, "w/part")["Body"].read() == b"hello"
