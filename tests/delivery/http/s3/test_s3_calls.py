"""Every operation of botocore's S3 model is done to its key, or refused with an S3 error.

botocore builds the requests, for every operation that it has, with required and optional parameters
drawn from the shapes of the model, with both signatures and both addressing styles.
"""

from __future__ import annotations

import datetime
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.session import get_session

from tests.support.http.http_viewer import Response, Viewer, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.fake_bucket import BUCKET, FakeBucket

PREFIX = "site/of+one"
ROUNDS = 8  # for each operation
KEYS = [
    "film.mp4",
    "dir/in it/film.mp4",
    "a+b=c&d;e?f#g",
    "%41%2f",
    "é€𝄞",
    "'\"<>(1)!*~@:,$|^`[]{}",
    f"{BUCKET}/film.mp4",
    BUCKET,
    "dir/",
    "x" * 900,
]
DONE = {
    "GetObject": ("GET", "HEAD"),  # the edge may send a HEAD first
    "HeadObject": ("HEAD",),
    "PutObject": ("PUT",),
    "DeleteObject": ("DELETE",),
    "CreateMultipartUpload": ("POST",),
    "UploadPart": ("PUT",),
    "CompleteMultipartUpload": ("POST",),
    "AbortMultipartUpload": ("DELETE",),
    "ListParts": ("GET",),
}
DONE_ON_BUCKETS = {
    "ListObjects": "GET",
    "ListObjectsV2": "GET",
    "HeadBucket": "HEAD",
    "GetBucketLocation": "GET",
}
# Their address or signature belongs to another service, or they have no bucket.
ELSEWHERE = {"CreateSession", "ListDirectoryBuckets", "WriteGetObjectResponse"}
MODEL = get_session().get_service_model("s3")
OPERATIONS = sorted(set(MODEL.operation_names) - ELSEWHERE)


class Sent(NamedTuple):
    """A request as botocore would send it."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Maker:
    """Draws parameters from the model's shapes and builds requests with botocore."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], Any] = {}
        self._caught: list[Sent] = []

    def request(self, operation: str, seed: int) -> tuple[Sent | None, dict[str, Any]]:
        """A request of ``operation`` and its parameters; None where botocore rejects them."""
        draw = random.Random(f"{operation} {seed}")
        shape = MODEL.operation_model(operation).input_shape
        parameters = {} if shape is None else self._structure(draw, shape, 0)
        if "Bucket" in parameters:
            parameters["Bucket"] = BUCKET
        if "Key" in parameters:
            parameters["Key"] = draw.choice(KEYS)
        client = self._client(draw.choice(["path", "virtual"]), draw.choice(["s3", "s3v4"]))
        method = next(
            name for name, of in client.meta.method_to_api_mapping.items() if of == operation
        )
        self._caught.clear()
        try:
            if draw.random() < 0.3:
                url = client.generate_presigned_url(method, Params=parameters)
                verb = MODEL.operation_model(operation).http["method"]
                return _presigned(draw, verb, url), parameters
            getattr(client, method)(**parameters)
        except ParamValidationError:
            return None, parameters
        except (BotoCoreError, ClientError, ValueError, TypeError, AttributeError, KeyError):
            # How botocore parses the empty response does not matter.
            if not self._caught:
                return None, parameters
        return self._caught[0], parameters

    def _client(self, style: Any, version: str) -> Any:
        if (style, version) not in self._clients:
            client: Any = boto3.client(
                "s3",
                endpoint_url="http://edge.test",
                region_name="us-east-1",
                aws_access_key_id="any",
                aws_secret_access_key="any",
                config=Config(
                    signature_version=version,
                    s3={"addressing_style": style},
                    retries={"total_max_attempts": 1},
                ),
            )
            client.meta.events.register("before-send", self._catch)
            self._clients[style, version] = client
        return self._clients[style, version]

    def _catch(self, request: Any, **_more: Any) -> AWSResponse:
        body = request.body or b""
        if hasattr(body, "read"):
            body = body.read()
        headers = [
            (name, value.decode() if isinstance(value, bytes) else str(value))
            for name, value in request.headers.items()
        ]
        self._caught.append(Sent(request.method, request.url, headers, body))
        return AWSResponse(request.url, 200, HTTPHeaders(), io.BytesIO(b""))

    def _structure(self, draw: random.Random, shape: Any, depth: int) -> dict[str, Any]:
        if getattr(shape, "is_tagged_union", False):
            name = draw.choice(list(shape.members))
            return {name: self._value(draw, shape.members[name], depth + 1)}
        probability = draw.choice([0.0, 0.0, 0.1, 0.4])
        return {
            name: self._value(draw, member, depth + 1)
            for name, member in shape.members.items()
            if name in shape.required_members or draw.random() < probability
        }

    def _value(self, draw: random.Random, shape: Any, depth: int) -> Any:
        if getattr(shape, "enum", None):
            return draw.choice(shape.enum)
        match shape.type_name:
            case "structure":
                return self._structure(draw, shape, depth) if depth < 5 else {}
            case "list":
                return [self._value(draw, shape.member, depth + 1)]
            case "map":
                return {"name": "value"}
            case "blob":
                return draw.randbytes(draw.choice([0, 5, 3000]))
            case "integer" | "long":
                return draw.choice([1, 2, 1000])
            case "boolean":
                return draw.random() < 0.5
            case "timestamp":
                return datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
            case _:
                text: str = draw.choice(["text", "an id/+=", "x-y"])
                return text.ljust(shape.metadata.get("min", 0), "x")


def _presigned(draw: random.Random, method: str, url: str) -> Sent:
    """A request to a presigned URL, with the signed fields or without them."""
    body = b"" if method in ("GET", "HEAD", "DELETE") else b"presigned"
    headers = [("content-length", str(len(body)))] if body else []
    signed = parse_qs(urlsplit(url).query).get("X-Amz-SignedHeaders", [""])[0].split(";")
    if draw.random() < 0.5:
        headers += [(name, "text") for name in signed if name not in ("", "host")]
    return Sent(method, url, headers, body)


@pytest.fixture(scope="module", name="maker")
def _maker() -> Maker:
    return Maker()


@pytest.fixture
async def bucket() -> AsyncIterator[FakeBucket]:
    async with FakeBucket() as bucket:
        yield bucket


@pytest.fixture
async def edge(cache_root: Path, bucket: FakeBucket) -> AsyncIterator[WebEdge]:
    origin = {
        "type": "s3",
        "bucket": BUCKET,
        "prefix": PREFIX,
        "endpoint": bucket.url,
        "access_key_id": "own",
        "secret_access_key": "own",
    }
    rules = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"], "default_ttl": "0s"}
    async with serve_web(cache_root, rules=rules, tables={"origins": {"main": origin}}) as edge:
        yield edge


async def ask(viewer: Viewer, sent: Sent) -> Response:
    parts = urlsplit(sent.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{sent.method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in sent.headers if name.lower() != "expect"]
    body = sent.body
    if any(name.lower() == "transfer-encoding" for name, _value in sent.headers):
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    await viewer.send("\r\n".join([*lines, "", ""]).encode("utf-8") + body)
    return await viewer.receive(sent.method)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operation_is_done_to_its_key_or_refused(
    edge: WebEdge, bucket: FakeBucket, maker: Maker, operation: str
) -> None:
    sent_count = done_count = 0
    for seed in range(ROUNDS):
        sent, parameters = maker.request(operation, seed)
        if sent is None:
            continue
        sent_count += 1
        key = f"{PREFIX}/{parameters['Key']}" if "Key" in parameters else ""
        present = {f"{PREFIX}/{one}": one.encode() for one in KEYS}
        bucket.objects = dict(present)
        bucket.requests.clear()
        async with open_viewer(edge.port) as viewer:
            answer = await ask(viewer, sent)
        story = f"{sent.method} {sent.url} {parameters} -> {answer.status} {answer.body[:300]!r}"
        bucket_calls = {(method, bucket_key) for method, bucket_key, _query in bucket.requests}
        if operation in DONE:
            assert bucket_calls <= {(method, key) for method in DONE[operation]}, story
        elif operation in DONE_ON_BUCKETS:
            assert bucket_calls <= {(DONE_ON_BUCKETS[operation], "")}, story
        else:
            assert not bucket_calls, story
        unchanged = {one: content for one, content in bucket.objects.items() if one != key}
        assert unchanged == {one: own for one, own in present.items() if one != key}, story
        done_count += bool(bucket_calls)
        if not bucket_calls:
            assert answer.status >= 304, story
            assert sent.method == "HEAD" or answer.status == 304 or b"<Code>" in answer.body, story
        elif operation == "PutObject":
            assert answer.status == 200, story
            stated = parameters.get("Body", b"")
            assert bucket.objects[key] in (stated, b"presigned"), story
    assert sent_count, "botocore built no request for it"
    assert bool(done_count) is (operation in DONE or operation in DONE_ON_BUCKETS)
