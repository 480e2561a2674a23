"""Journeys: objects that are written through the edge, by S3's own clients and by any other.

Two workers, a real bucket and a folder. After each write many viewers come on new connections, so
that both workers answer: none may get what was there before.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from tests.support.http.http_viewer import Response, Viewer, open_viewer, request
from tests.support.origins.s3_server import S3Server
from tests.support.patience import polls
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.rtmp.rtmp_client import VIDEO, open_client, samples
from tests.support.rtmp.rtmp_media import tags_flv

BUCKET = "written"
PART_BYTES = 5 << 20
BODY_BYTES_MAX = 24 << 20
CHUNK_BYTES = 1 << 20
FRAME_HEADER_BYTES = 13  # of a frame of tags_flv, before its filler
VIEWERS = 8  # on new connections; all reach the same of two workers once in 128 times
KINDS = ["bucket", "folder"]

ORIGINS = """
[origins.main]
type = "s3"
bucket = "{bucket}"
endpoint = "{s3.endpoint}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
[origins.folder]
type = "directory"
path = "objects"
[origin_groups.both]
origins = ["main", "folder"]
[cache_policies.by_query]
query_strings = "all"
"""
DISTRIBUTIONS = """
[[distributions]]
id = "EBUCKET"
type = "web"
aliases = ["bucket.test", "127.0.0.1"]
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"]
[[distributions.behaviors]]
path = "queried/*"
cache_policy = "by_query"
[[distributions]]
id = "EFOLDER"
type = "web"
aliases = ["folder.test"]
origin = "folder"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
[[distributions]]
id = "EGROUP"
type = "web"
aliases = ["group.test"]
origin = "both"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
[[distributions]]
id = "ESTREAM"
type = "rtmp"
aliases = ["*"]
origin = "main"
application = ["bucket"]
[[distributions]]
id = "EFILES"
type = "rtmp"
aliases = ["*"]
origin = "folder"
application = ["folder"]
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The edge and its origins."""

    edge: EdgeProcess
    s3: S3Server
    folder: Path

    def origin_has(self, kind: str, name: str) -> bytes | None:
        """An object's content at its origin."""
        if kind == "folder":
            path = self.folder / name
            return path.read_bytes() if path.exists() else None
        try:
            body: bytes = self.s3.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        except self.s3.client.exceptions.NoSuchKey:
            return None
        return body

    async def send_request(
        self, kind: str, name: str, method: str = "GET", body: bytes = b"", **fields: str
    ) -> Response:
        """Sends one request on a new connection."""
        async with open_viewer(self.edge.http_port) as viewer:
            if method != "GET":
                fields["content_length"] = str(len(body))
            await viewer.send(request(f"/{name}", method, host=f"{kind}.test", **fields) + body)
            return await viewer.receive(method)

    async def served(self, kind: str, name: str) -> set[tuple[int, bytes]]:
        """The responses that new viewers receive."""
        responses = await asyncio.gather(
            *(self.send_request(kind, name) for _viewer in range(VIEWERS))
        )
        return {(response.status, response.body) for response in responses}


@pytest.fixture(scope="module", name="site")
def _site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    s3.create_bucket(BUCKET)
    folder = tmp_path_factory.mktemp("edge")
    objects = folder / "objects"
    objects.mkdir()
    with run_edge(
        folder,
        ORIGINS.format(bucket=BUCKET, s3=s3),
        workers=2,
        distributions=DISTRIBUTIONS,
        limits=f'request_body = "{BODY_BYTES_MAX}B"',
    ) as edge:
        yield Site(edge, s3, objects)


@pytest.fixture(name="client")
def _client(site: Site) -> Iterator[Any]:
    """An S3 client with the edge as its endpoint and with other keys than the bucket's."""
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{site.edge.http_port}",
        region_name="eu-west-1",
        aws_access_key_id="a-client-of-the-edge",
        aws_secret_access_key="a-secret-of-the-tests",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


def noise(size_bytes: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


async def test_file_is_uploaded_and_downloaded_in_parts(
    site: Site, client: Any, tmp_path: Path
) -> None:
    data = noise(24_000_001, 1)
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(data)
    site.s3.put(BUCKET, "film.mp4", b"old")
    assert await site.served("bucket", "film.mp4") == {(200, b"old")}
    in_parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
    extra_arguments = {"ContentType": "video/mp4", "Metadata": {"reel": "seven"}}
    await asyncio.to_thread(
        client.upload_file,
        str(there),
        BUCKET,
        "film.mp4",
        ExtraArgs=extra_arguments,
        Config=in_parts,
    )
    assert site.origin_has("bucket", "film.mp4") == data
    head = site.s3.client.head_object(Bucket=BUCKET, Key="film.mp4")
    assert head["ETag"].endswith('-5"')
    assert (head["ContentType"], head["Metadata"]) == ("video/mp4", {"reel": "seven"})
    digests = {
        (status, hashlib.sha256(body).digest())
        for status, body in await site.served("bucket", "film.mp4")
    }
    assert digests == {(200, hashlib.sha256(data).digest())}
    await asyncio.to_thread(client.download_file, BUCKET, "film.mp4", str(back), Config=in_parts)
    assert back.read_bytes() == data


async def test_file_of_200_mb_is_uploaded_and_downloaded(
    site: Site, client: Any, tmp_path: Path
) -> None:
    data = noise(200_000_000, 4)
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(data)
    await asyncio.to_thread(client.upload_file, str(there), BUCKET, "long.mp4")
    head = site.s3.client.head_object(Bucket=BUCKET, Key="long.mp4")
    assert head["ContentLength"] == len(data)
    assert head["ETag"].endswith('-24"')
    await asyncio.to_thread(client.download_file, BUCKET, "long.mp4", str(back))
    assert back.read_bytes() == data


@pytest.mark.parametrize(
    "promise",
    [
        {},
        {"ChecksumAlgorithm": "CRC32"},
        {"ChecksumAlgorithm": "SHA1"},
        {"ChecksumAlgorithm": "SHA256"},
        {"ContentMD5": base64.b64encode(hashlib.md5(b"new").digest()).decode()},
    ],
)
async def test_object_is_written_with_its_checksum(
    site: Site, client: Any, promise: dict[str, str]
) -> None:
    site.s3.put(BUCKET, "page", b"old")
    assert await site.served("bucket", "page") >= {(200, b"old")}
    result = await asyncio.to_thread(
        client.put_object,
        Bucket=BUCKET,
        Key="page",
        Body=b"new",
        CacheControl="no-cache",
        **promise,
    )
    assert result["ETag"] == f'"{hashlib.md5(b"new").hexdigest()}"'
    assert site.origin_has("bucket", "page") == b"new"
    assert site.s3.client.head_object(Bucket=BUCKET, Key="page")["CacheControl"] == "no-cache"
    assert await site.served("bucket", "page") == {(200, b"new")}


@pytest.mark.parametrize("kind", KINDS)
async def test_write_with_a_failed_condition_changes_nothing(site: Site, kind: str) -> None:
    name = "dir/conditional"
    assert (await site.send_request(kind, name, "PUT", b"1", if_match='"any"')).status in {404, 412}
    first = await site.send_request(kind, name, "PUT", b"1", if_none_match="*")
    assert first.status in {200, 201}
    assert (await site.send_request(kind, name, "PUT", b"2", if_none_match="*")).status == 412
    assert await site.served(kind, name) == {(200, b"1")}
    second = await site.send_request(kind, name, "PUT", b"2", if_match=first.fields["etag"])
    assert second.status == 200
    assert await site.served(kind, name) == {(200, b"2")}
    stale = await site.send_request(kind, name, "PUT", b"3", if_match=first.fields["etag"])
    assert stale.status == 412
    assert await site.served(kind, name) == {(200, b"2")}
    assert site.origin_has(kind, name) == b"2"


@pytest.mark.parametrize("kind", KINDS)
async def test_body_with_a_wrong_checksum_changes_nothing(site: Site, kind: str) -> None:
    name = "promised"
    await site.send_request(kind, name, "PUT", b"old")
    digest = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused = await site.send_request(kind, name, "PUT", b"new", content_md5=digest)
    assert refused.status == 400
    assert b"BadDigest" in refused.body
    assert await site.served(kind, name) == {(200, b"old")}
    assert site.origin_has(kind, name) == b"old"


@pytest.mark.parametrize("kind", KINDS)
async def test_deleted_object_is_a_404_for_all_viewers(site: Site, kind: str) -> None:
    assert (await site.send_request(kind, "gone", "PUT", b"here")).status in {200, 201}
    assert await site.served(kind, "gone") == {(200, b"here")}
    assert (await site.send_request(kind, "gone", "DELETE")).status == 204
    assert {status for status, _body in await site.served(kind, "gone")} == {404}
    assert site.origin_has(kind, "gone") is None
    assert (await site.send_request(kind, "gone", "PUT", b"again")).status in {200, 201}
    assert await site.served(kind, "gone") == {(200, b"again")}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_viewer_receives_a_replaced_object(site: Site, kind: str) -> None:
    for number in range(6):
        body = b"%d" % number * 1000
        assert (await site.send_request(kind, "often", "PUT", body)).status in {200, 201}
        assert await site.served(kind, "often") == {(200, body)}


async def test_all_query_variants_of_an_object_are_replaced_with_it(site: Site) -> None:
    name = "queried/page"
    for body in (b"old", b"new"):
        assert (await site.send_request("bucket", name, "PUT", body)).status == 200
        for query in ("", "?v=1", "?v=2"):
            assert await site.served("bucket", name + query) == {(200, body)}


@pytest.mark.parametrize("written", ["bucket", "group"])
async def test_write_to_a_group_or_its_first_origin_updates_both(site: Site, written: str) -> None:
    name = f"shared-by-{written}"
    for body in (b"old", b"new"):
        assert (await site.send_request(written, name, "PUT", body)).status == 200
        assert await site.served("bucket", name) == {(200, body)}
        assert await site.served("group", name) == {(200, body)}


@pytest.mark.parametrize("kind", KINDS)
async def test_replaced_media_plays_its_new_content(site: Site, kind: str) -> None:
    for frame_bytes in (500, 700):
        media = tags_flv(2, frame_bytes=frame_bytes)
        assert (await site.send_request(kind, "film.flv", "PUT", media)).status in {200, 201}
        played = await asyncio.gather(*(play(site.edge, kind) for _viewer in range(VIEWERS)))
        assert played == [[FRAME_HEADER_BYTES + frame_bytes] * 50] * VIEWERS


async def play(edge: EdgeProcess, application: str) -> list[int]:
    """The sizes of the video frames of film.flv."""
    async with open_client(edge.rtmp_port, application) as client:
        client.play("film")
        received = samples(await client.until_named("NetStream.Play.Stop"))
        return [len(frame.body) for frame in received if frame.kind == VIDEO]


async def test_body_without_a_length_is_streamed_to_the_bucket(site: Site) -> None:
    data = noise(12_000_000, 2)
    async with open_viewer(site.edge.http_port) as viewer:
        await viewer.send(request("/live", "PUT", host="bucket.test", transfer_encoding="chunked"))
        await send_chunks(viewer, data[:9_000_000])
        await until(lambda: has_part_at_bucket(site, "live"), "the first part to be there")
        assert site.origin_has("bucket", "live") is None
        await send_chunks(viewer, data[9_000_000:])
        await viewer.send(b"0\r\n\r\n")
        assert (await viewer.receive("PUT")).status == 200
    assert site.origin_has("bucket", "live") == data


def uploads_at_bucket(site: Site, name: str) -> list[str]:
    """The unfinished multipart uploads of an object."""
    uploads = site.s3.client.list_multipart_uploads(Bucket=BUCKET, Prefix=name).get("Uploads", [])
    return [upload["UploadId"] for upload in uploads]


def has_part_at_bucket(site: Site, name: str) -> bool:
    for upload in uploads_at_bucket(site, name):
        parts = site.s3.client.list_parts(Bucket=BUCKET, Key=name, UploadId=upload)
        if parts.get("Parts"):
            return True
    return False


async def send_chunks(viewer: Viewer, data: bytes) -> None:
    for start in range(0, len(data), CHUNK_BYTES):
        piece = data[start : start + CHUNK_BYTES]
        await viewer.send(b"%x\r\n%b\r\n" % (len(piece), piece))


async def until(condition: Callable[[], bool], subject: str) -> None:
    """Waits until ``condition`` holds because of another process."""
    for _round in polls():
        if await asyncio.to_thread(condition):
            return
        await asyncio.to_thread(pause)
    raise TimeoutError(subject)


async def test_put_of_a_disconnected_viewer_writes_nothing(site: Site) -> None:
    site.s3.put(BUCKET, "left", b"old")
    async with open_viewer(site.edge.http_port) as viewer:
        await viewer.send(request("/left", "PUT", host="bucket.test", transfer_encoding="chunked"))
        await send_chunks(viewer, noise(9_000_000, 3))
        await until(lambda: has_part_at_bucket(site, "left"), "the first part to be there")
        viewer.reset()
    await until(lambda: not uploads_at_bucket(site, "left"), "the upload to be given up")
    assert await site.served("bucket", "left") == {(200, b"old")}


@pytest.mark.parametrize("kind", KINDS)
async def test_body_over_the_limit_is_refused(site: Site, kind: str) -> None:
    await site.send_request(kind, "large", "PUT", b"old")
    async with open_viewer(site.edge.http_port) as viewer:
        length = str(BODY_BYTES_MAX + 1)
        await viewer.send(request("/large", "PUT", host=f"{kind}.test", content_length=length))
        assert (await viewer.receive("PUT")).status == 413  # before any byte of the body
    async with open_viewer(site.edge.http_port) as viewer:
        chunked = request("/large", "PUT", host=f"{kind}.test", transfer_encoding="chunked")
        await viewer.send(chunked)
        await send_chunks(viewer, bytes(BODY_BYTES_MAX))
        await viewer.send(b"1\r\nx\r\n")
        assert (await viewer.receive("PUT")).status == 413
    assert await site.served(kind, "large") == {(200, b"old")}
    assert site.origin_has(kind, "large") == b"old"
    if kind == "bucket":
        await until(lambda: not uploads_at_bucket(site, "large"), "the upload to be given up")
