"""S3Origin against a real S3 server that checks signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import Origin, Version
from streamedge.origin.s3.origin import S3Origin, bucket_url
from streamedge.spans import Span
from tests.support.origins.s3_server import S3Server
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin, read_all

BUCKET = "videos"
PART_BYTES = 5 << 20  # S3's smallest part
FILM = Pattern(PART_BYTES + 1000, seed=3).read(Span(0, PART_BYTES + 1000))

ODD_KEYS = (
    "a b.mp4",
    "a+b.mp4",
    "100%.mp4",
    "a%20b.mp4",
    "a%2Fb.mp4",
    "~tilde.mp4",
    "dossier d'été/☃ (1)*!.mp4",
    "q?x=1&y=2.mp4",
    "hash#1.mp4",
    "a=b;c:d@e,f$g.mp4",
    "𝄞/emoji 🎬.mp4",
    "...mp4",
    '{braces}[brackets]<angles>|^`".mp4',
)


@pytest.fixture(scope="session")
def film_etag(s3: S3Server) -> str:
    """Puts dir/film.mp4, in two parts."""
    return s3.put_in_parts(BUCKET, "dir/film.mp4", [FILM[:PART_BYTES], FILM[PART_BYTES:]])


@pytest.fixture
async def origin(s3: S3Server) -> AsyncIterator[S3Origin]:
    origin = origin_at(s3)
    yield origin
    await origin.close()


def origin_at(s3: S3Server, *, prefix: str = "", secret: str | None = None) -> S3Origin:
    return S3Origin(
        BUCKET,
        prefix,
        endpoint=s3.endpoint,
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key if secret is None else secret,
    )


async def failures_of(origin: Origin, name: str) -> tuple[OriginError, OriginError]:
    """The failures of ``head`` and ``read``."""
    with pytest.raises(OriginError) as head:
        await origin.head(name)
    with pytest.raises(OriginError) as read:
        await origin.read(name, Span(0, 10))
    return head.value, read.value


async def test_head_has_the_version(origin: S3Origin, film_etag: str) -> None:
    head = await origin.head("dir/film.mp4")
    assert film_etag.endswith('-2"')
    assert head.version.etag == film_etag
    assert head.version.size_bytes == len(FILM)
    assert head.version.last_modified_s is not None


async def test_whole_object_and_ranges_are_read(origin: S3Origin, film_etag: str) -> None:
    assert await read_all(await origin.read("dir/film.mp4")) == FILM
    for span in (Span(0, 1), Span(PART_BYTES - 10, PART_BYTES + 10), Span(len(FILM) - 5, 1 << 40)):
        read = await origin.read("dir/film.mp4", span)
        assert read is not None
        assert read.span == span.intersect(Span(0, len(FILM)))
        assert read.head.version.etag == film_etag
        assert await read_all(read) == FILM[span.start : span.end]


async def test_content_type_is_the_buckets(s3: S3Server, origin: S3Origin) -> None:
    s3.put(BUCKET, "typed.mp4", b"x", content_type="video/x-own")
    assert (await origin.head("typed.mp4")).content_type == "video/x-own"


async def test_range_past_the_end_is_refused(origin: S3Origin, film_etag: str) -> None:
    with pytest.raises(OriginError) as caught:
        await origin.read("dir/film.mp4", Span(len(FILM), len(FILM) + 1))
    assert caught.value.failure is OriginFailure.RANGE_OUTSIDE


async def test_empty_object_is_read(s3: S3Server, origin: S3Origin) -> None:
    s3.put(BUCKET, "empty.mp4", b"")
    assert await read_all(await origin.read("empty.mp4")) == b""
    with pytest.raises(OriginError) as caught:
        await origin.read("empty.mp4", Span(0, 10))
    assert caught.value.failure is OriginFailure.RANGE_OUTSIDE


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_odd_keys_are_signed_as_they_are_sent(
    s3: S3Server, origin: S3Origin, key: str
) -> None:
    s3.put(BUCKET, key, key.encode())
    assert await read_all(await origin.read(key)) == key.encode()
    assert (await origin.head(key)).version.size_bytes == len(key.encode())


async def test_object_is_read_below_the_prefix(s3: S3Server, film_etag: str) -> None:
    origin = origin_at(s3, prefix="/dir/")
    assert (await origin.head("film.mp4")).version.etag == film_etag
    first, second = await failures_of(origin, "../dir/film.mp4")
    assert first.failure is second.failure is OriginFailure.NOT_FOUND
    await origin.close()


async def test_missing_key_is_not_found_and_a_missing_bucket_is_named(
    s3: S3Server, origin: S3Origin
) -> None:
    head, read = await failures_of(origin, "missing.mp4")
    assert head.failure is read.failure is OriginFailure.NOT_FOUND
    assert str(head) == "s3://videos 'missing.mp4': answered 404"
    assert str(read) == "s3://videos 'missing.mp4': answered 404 NoSuchKey"
    elsewhere = S3Origin(
        "nowhere",
        endpoint=s3.endpoint,
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
    )
    _, read = await failures_of(elsewhere, "film.mp4")
    assert read.failure is OriginFailure.UNAVAILABLE
    assert not read.retryable
    assert str(read) == (
        "s3://nowhere 'film.mp4': answered 404 NoSuchBucket: the bucket does not exist; check the"
        " origin's bucket, region and endpoint"
    )
    await elsewhere.close()


async def test_wrong_secret_is_forbidden(s3: S3Server, film_etag: str) -> None:
    origin = origin_at(s3, secret="wrong-secret")
    head, read = await failures_of(origin, "dir/film.mp4")
    assert head.failure is read.failure is OriginFailure.FORBIDDEN
    assert str(read) == "s3://videos 'dir/film.mp4': answered 403 SignatureDoesNotMatch"
    for error in (head, read):
        assert "wrong-secret" not in str(error)
        assert s3.access_key_id not in str(error)
    await origin.close()


async def test_unknown_key_and_anonymous_requests_are_forbidden(
    s3: S3Server, film_etag: str
) -> None:
    stranger = S3Origin(
        BUCKET, endpoint=s3.endpoint, access_key_id="unknown", secret_access_key="x"
    )
    anonymous = S3Origin(BUCKET, endpoint=s3.endpoint, anonymous=True)
    for origin in (stranger, anonymous):
        head, read = await failures_of(origin, "dir/film.mp4")
        assert head.failure is read.failure is OriginFailure.FORBIDDEN
        await origin.close()


async def test_new_bytes_are_a_new_version(s3: S3Server, origin: S3Origin) -> None:
    s3.put(BUCKET, "changing.mp4", b"first")
    first = (await origin.head("changing.mp4")).version
    assert await read_all(await origin.read("changing.mp4", Span(1, 3), if_match=first)) == b"ir"
    assert await origin.read("changing.mp4", if_none_match=first) is None
    s3.put(BUCKET, "changing.mp4", b"later")
    with pytest.raises(OriginError) as caught:
        await origin.read("changing.mp4", Span(1, 3), if_match=first)
    assert caught.value.failure is OriginFailure.CHANGED
    assert await read_all(await origin.read("changing.mp4", if_none_match=first)) == b"later"


async def test_credential_chain_reads_the_environment(
    s3: S3Server, film_etag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_access_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    origin = S3Origin(BUCKET, endpoint=s3.endpoint)
    assert (await origin.head("dir/film.mp4")).version.etag == film_etag
    await origin.close()


async def test_empty_key_is_not_found_without_a_request() -> None:
    async with ScriptedOrigin() as server:
        origin = S3Origin(BUCKET, endpoint=server.url, anonymous=True)
        head, read = await failures_of(origin, "")
        assert head.failure is read.failure is OriginFailure.NOT_FOUND
        assert not server.requests
        await origin.close()


async def test_only_host_and_amz_fields_are_signed() -> None:
    async with ScriptedOrigin() as server:
        server.put("videos/a b.mp4", b"film")
        origin = S3Origin(
            BUCKET,
            region="eu-west-1",
            endpoint=server.url,
            access_key_id="AKID",
            secret_access_key="secret",
        )
        version = Version('"1"', 4)
        assert await read_all(await origin.read("a b.mp4", Span(0, 4), if_match=version)) == b"film"
        sent = server.requests[0].headers
        assert sent["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
        assert "/eu-west-1/s3/aws4_request" in sent["authorization"]
        assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date," in sent["authorization"]
        assert server.requests[0].path == "/videos/a%20b.mp4"
        await origin.close()


async def test_configured_headers_are_sent_and_signed(s3: S3Server, film_etag: str) -> None:
    headers = [("X-Secret", "s"), ("x-amz-request-payer", "requester")]

    def origin_of(endpoint: str) -> S3Origin:
        return S3Origin(
            BUCKET,
            endpoint=endpoint,
            access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key,
            headers=headers,
        )

    origin = origin_of(s3.endpoint)
    assert (await origin.head("dir/film.mp4")).version.etag == film_etag
    await origin.close()
    async with ScriptedOrigin() as server:
        server.put("videos/film.mp4", b"film")
        origin = origin_of(server.url)
        assert await read_all(await origin.read("film.mp4")) == b"film"
        sent = server.requests[0].headers
        assert (sent["x-secret"], sent["x-amz-request-payer"]) == ("s", "requester")
        signed = "host;x-amz-content-sha256;x-amz-date;x-amz-request-payer;x-secret"
        assert f"SignedHeaders={signed}," in sent["authorization"]
        await origin.close()
        origin = S3Origin(BUCKET, endpoint=server.url, headers=headers, anonymous=True)
        assert await read_all(await origin.read("film.mp4")) == b"film"
        assert server.requests[1].headers["x-secret"] == "s"
        await origin.close()


async def test_slow_down_is_unavailable() -> None:
    async with ScriptedOrigin() as server:
        body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
        server.script(Reply(status=503, body=body))
        origin = S3Origin(BUCKET, endpoint=server.url, anonymous=True)
        with pytest.raises(OriginError, match="answered 503 SlowDown") as caught:
            await origin.read("film.mp4")
        assert caught.value.failure is OriginFailure.UNAVAILABLE
        await origin.close()


@pytest.mark.parametrize(
    ("bucket", "region", "endpoint", "url"),
    [
        ("videos", "us-east-1", "", "https://videos.s3.us-east-1.amazonaws.com"),
        ("videos", "cn-north-1", "", "https://videos.s3.cn-north-1.amazonaws.com.cn"),
        ("my.videos", "eu-west-1", "", "https://s3.eu-west-1.amazonaws.com/my.videos"),
        ("Old_Videos", "us-east-1", "", "https://s3.us-east-1.amazonaws.com/Old_Videos"),
        ("videos", "us-east-1", "http://127.0.0.1:9000", "http://127.0.0.1:9000/videos"),
        ("videos", "us-east-1", "https://s3.example.org/", "https://s3.example.org/videos"),
    ],
)
def test_bucket_url_is_a_path_or_a_host(bucket: str, region: str, endpoint: str, url: str) -> None:
    assert bucket_url(bucket, region, endpoint) == url


@pytest.mark.parametrize(
    ("bucket", "endpoint", "path_style", "url"),
    [
        ("videos", "", True, "https://s3.us-east-1.amazonaws.com/videos"),
        ("my.videos", "", False, "https://my.videos.s3.us-east-1.amazonaws.com"),
        ("videos", "http://s3.test:9000/", True, "http://s3.test:9000/videos"),
        ("videos", "http://s3.test:9000/", False, "http://videos.s3.test:9000"),
        ("videos", "https://s3.test/path", False, "https://videos.s3.test/path"),
    ],
)
def test_path_style_and_virtual_host_urls_are_built(
    bucket: str, endpoint: str, path_style: bool, url: str
) -> None:
    assert bucket_url(bucket, "us-east-1", endpoint, path_style) == url


@pytest.mark.parametrize("bucket", ["evil.test/", "evil.test:80", "a@b", "a?b", "a#b", "", "A_b"])
def test_bucket_name_cannot_change_the_host(bucket: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        bucket_url(bucket, "us-east-1", "https://s3.test", path_style=False)
