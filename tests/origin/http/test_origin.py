"""HttpOrigin against a scripted server: successful responses, versions and connections."""

from __future__ import annotations

import asyncio

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginRequest, Version
from streamedge.origin.http import origin as origin_module
from streamedge.origin.http.exchange import parse_base_url
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.origin.http.film import FILM, FILM_VERSION, failure_of
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin, read_all

# --- successful responses
# ---------------------------------------------------------------------------


async def test_head_has_version_type_and_headers(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.put(
        "film.mp4",
        FILM,
        etag='"v1"',
        content_type="video/mp4",
        headers=(
            ("Cache-Control", "max-age=60"),
            ("Cache-Control", "public"),
            ("Set-Cookie", "a=b"),
            ("Connection", "X-Private"),
            ("X-Private", "1"),
        ),
    )
    head = await origin.head("film.mp4")
    assert head.version == FILM_VERSION
    assert head.content_type == "video/mp4"
    assert head.headers == {
        "accept-ranges": "bytes",
        "cache-control": "max-age=60, public",
        "set-cookie": "a=b",
    }
    assert server.requests[0].method == "HEAD"
    assert server.body_bytes_sent == 0


async def test_whole_object_is_read(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    read = await origin.read("film.mp4")
    assert read is not None
    assert read.span == Span(0, 1_000_000)
    assert read.head.version == FILM_VERSION
    assert await read_all(read) == FILM.read(Span(0, 1_000_000))
    seen = server.requests[0]
    assert seen.span is None
    assert seen.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "if-match"} & seen.headers.keys()


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(0, 1), Span(0, 1)),
        (Span(262_144, 524_288), Span(262_144, 524_288)),
        (Span(999_999, 1_000_000), Span(999_999, 1_000_000)),
        (Span(900_000, 2_000_000), Span(900_000, 1_000_000)),
    ],
)
async def test_range_is_clipped_to_the_end(
    server: ScriptedOrigin, origin: HttpOrigin, span: Span, expected: Span
) -> None:
    read = await origin.read("film.mp4", span)
    assert read is not None
    assert read.span == expected
    assert read.head.version.size_bytes == FILM.size_bytes
    assert await read_all(read) == FILM.read(expected)
    assert server.requests[0].headers["range"] == f"bytes={span.start}-{span.end - 1}"


async def test_range_far_into_a_huge_object_is_read(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    huge = Pattern(1 << 40)
    server.put("huge.mp4", huge)
    span = Span((1 << 40) - 1000, 1 << 40)
    assert await read_all(await origin.read("huge.mp4", span)) == huge.read(span)


async def test_origin_that_ignores_ranges_sends_all_bytes(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.script(Reply(ignore_range=True))
    read = await origin.read("film.mp4", Span(500_000, 600_000))
    assert read is not None
    assert read.span == Span(0, 1_000_000)
    assert await read_all(read) == FILM.read(read.span)


async def test_empty_object_is_read(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.put("empty.mp4", b"")
    read = await origin.read("empty.mp4")
    assert read is not None
    assert read.span == Span(0, 0)
    assert await read_all(read) == b""
    for turn in (Reply(), Reply(ignore_range=True)):
        server.script(turn)
        with pytest.raises(OriginError) as caught:
            await origin.read("empty.mp4", Span(0, 10))
        assert caught.value.failure is OriginFailure.RANGE_OUTSIDE


async def test_chunked_range_has_its_length_from_content_range(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.script(Reply(chunked=True))
    span = Span(10, 300_000)
    assert await read_all(await origin.read("film.mp4", span)) == FILM.read(span)


async def test_type_is_guessed_only_when_the_origin_names_none(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.put("film.flv", b"FLV", content_type="")
    server.put("film.mp4", b"FLV", content_type="binary/octet-stream")
    assert (await origin.head("film.flv")).content_type == "video/x-flv"
    assert (await origin.head("film.mp4")).content_type == "binary/octet-stream"


async def test_names_are_sent_unchanged(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    for name in ("a b+c%2Fd?e#f&g=h;i.mp4", "dossier/été ☃/~x'(1)*!.mp4", "a//b.mp4", "/a", "a/"):
        server.put(name, name.encode())
        assert await read_all(await origin.read(name)) == name.encode()
        assert server.requests[-1].name == name


async def test_base_path_prefix_and_configured_headers_are_sent(server: ScriptedOrigin) -> None:
    server.put("base/media/x.mp4", b"x")
    origin = HttpOrigin(f"{server.url}/base/", "/media/", headers=(("X-Origin-Secret", "s"),))
    assert await read_all(await origin.read("x.mp4")) == b"x"
    assert server.requests[0].headers["x-origin-secret"] == "s"
    await origin.close()


async def test_name_outside_the_prefix_is_never_sent(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    with pytest.raises(OriginError) as caught:
        await origin.read("../film.mp4")
    assert caught.value.failure is OriginFailure.NOT_FOUND
    assert server.connections_accepted == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host/path",
        "http://",
        "http://user@host/",
        "http://user:secret@host/",
        "http://host/?query",
        "http://host/#fragment",
        f"http://{'x' * 64}.example/",
    ],
)
def test_invalid_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="origin") as caught:
        HttpOrigin(url)
    assert "secret" not in str(caught.value)


def test_base_url_is_normalised() -> None:
    assert parse_base_url("https://bücher.example:8443/a b/") == (
        "https://xn--bcher-kva.example:8443/a%20b"
    )


@pytest.mark.parametrize("span", [Span(5, 5), Span(5, 4), Span(-1, 4)])
async def test_invalid_span_is_a_value_error(origin: HttpOrigin, span: Span) -> None:
    with pytest.raises(ValueError, match="range"):
        await origin.read("film.mp4", span)


# --- versions -------------------------------------------------------------------------------


async def test_if_match_is_sent_and_checked(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    span = Span(100, 200)
    read = await origin.read("film.mp4", span, if_match=FILM_VERSION)
    assert await read_all(read) == FILM.read(span)
    assert server.requests[0].headers["if-match"] == '"v1"'


@pytest.mark.parametrize("ignored", [False, True])
async def test_changed_object_raises_changed(
    server: ScriptedOrigin, origin: HttpOrigin, ignored: bool
) -> None:
    server.put("film.mp4", Pattern(FILM.size_bytes, seed=8), etag='"v2"')
    server.script(Reply(ignore_conditions=ignored))
    error = await failure_of(origin, Span(100, 200), if_match=FILM_VERSION)
    assert error.failure is OriginFailure.CHANGED
    assert server.body_bytes_sent in (0, 100)


@pytest.mark.parametrize("etag", ['W/"v1"', ""])
async def test_weak_or_missing_etag_is_matched_by_date(
    server: ScriptedOrigin, origin: HttpOrigin, etag: str
) -> None:
    server.put("film.mp4", FILM, etag=etag)
    version = (await origin.head("film.mp4")).version
    assert version == Version(etag, FILM.size_bytes, 1_700_000_000)
    await read_all(await origin.read("film.mp4", Span(0, 10), if_match=version))
    headers = server.requests[-1].headers
    assert "if-match" not in headers
    assert headers["if-unmodified-since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    server.put("film.mp4", FILM, etag=etag and 'W/"v2"', last_modified_s=1_700_000_001)
    server.script(Reply())
    server.script(Reply(ignore_conditions=True))
    for _ in range(2):
        error = await failure_of(origin, Span(0, 10), if_match=version)
        assert error.failure is OriginFailure.CHANGED


async def test_same_etag_with_another_size_is_a_changed_object(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.put("film.mp4", Pattern(999_999), etag='"v1"')
    error = await failure_of(origin, Span(0, 10), if_match=FILM_VERSION)
    assert error.failure is OriginFailure.CHANGED


async def test_object_shrunk_below_the_span_has_changed(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.put("film.mp4", Pattern(1000), etag='"v2"')
    server.script(Reply(ignore_conditions=True))
    error = await failure_of(origin, Span(2000, 3000), if_match=FILM_VERSION)
    assert error.failure is OriginFailure.CHANGED


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', ""])
async def test_unchanged_object_returns_none(
    server: ScriptedOrigin, origin: HttpOrigin, ignored: bool, etag: str
) -> None:
    server.put("film.mp4", FILM, etag=etag)
    version = (await origin.head("film.mp4")).version
    server.script(Reply(ignore_conditions=ignored))
    assert await origin.read("film.mp4", if_none_match=version) is None
    server.put("film.mp4", b"new", etag=etag and '"v2"', last_modified_s=1_800_000_000)
    assert await read_all(await origin.read("film.mp4", if_none_match=version)) == b"new"


async def test_non_ascii_etag_is_compared_not_sent(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.put("film.mp4", FILM, etag='"é"')
    version = (await origin.head("film.mp4")).version
    span = Span(0, 10)
    assert await read_all(await origin.read("film.mp4", span, if_match=version)) == FILM.read(span)
    assert await origin.read("film.mp4", if_none_match=version) is None
    assert not {"if-match", "if-none-match"} & server.requests[1].headers.keys()
    server.put("film.mp4", FILM, etag='"è"', last_modified_s=None)
    error = await failure_of(origin, span, if_match=version)
    assert error.failure is OriginFailure.CHANGED
    str(error).encode()


async def test_running_read_keeps_its_version(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.hold("film.mp4", at=1000)
    read = await origin.read("film.mp4")
    await server.until(lambda: server.body_bytes_sent == 1000)
    server.put("film.mp4", Pattern(FILM.size_bytes, seed=9), etag='"v2"')
    server.release("film.mp4")
    assert await read_all(read) == FILM.read(Span(0, FILM.size_bytes))


# --- connections ----------------------------------------------------------------------------


async def test_connection_is_reused_for_the_next_request(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.script(Reply())
    server.script(Reply(status=404, body=b"x" * 3000))
    await origin.head("film.mp4")
    await failure_of(origin)
    version = (await origin.head("film.mp4")).version
    assert await origin.read("film.mp4", if_none_match=version) is None
    for _ in range(3):
        await read_all(await origin.read("film.mp4", Span(0, 500_000)))
    assert server.connections_accepted == 1


async def test_equal_requests_are_sent_alike_and_others_are_not(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    sent = [
        OriginRequest("GET", "a", fields=(("accept", "1"),)),
        OriginRequest("GET", "a", fields=(("accept", "2"),)),
        OriginRequest("GET", "a", query="q=1", fields=(("accept", "1"),)),
        OriginRequest("HEAD", "a", fields=(("accept", "1"),)),
    ]
    for request in sent * 3:
        server.script(Reply(200, body=b"x"))
        (await origin.send(request)).close()
    seen = [(one.method, one.path, one.headers["accept"]) for one in server.requests]
    expected = [("GET", "/a", "1"), ("GET", "/a", "2"), ("GET", "/a?q=1", "1"), ("HEAD", "/a", "1")]
    assert seen == expected * 3


async def test_memory_for_encoded_requests_is_limited(
    server: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_module, "PREPARED_BYTES_MAX", 20_000)
    origin = HttpOrigin(server.url)
    for number in range(30):
        server.script(Reply(200, body=b"x"))
        fields = (("accept", f"{number}" * 100),)
        (await origin.send(OriginRequest("GET", "a", fields=fields))).close()
        assert 0 < origin.prepared_bytes <= 20_000
    await origin.close()


async def test_cookies_are_not_stored(server: ScriptedOrigin) -> None:
    server.put("film.mp4", FILM, headers=(("Set-Cookie", "viewer=1; Path=/"),))
    origin = HttpOrigin(server.url.replace("127.0.0.1", "localhost"))  # jars ignore IP addresses
    for _ in range(2):
        await origin.head("film.mp4")
    assert "cookie" not in server.requests[1].headers
    await origin.close()


async def test_long_error_body_is_not_read(server: ScriptedOrigin, origin: HttpOrigin) -> None:
    server.script(Reply(status=503, body=b"x" * 100_000, stall_at=50_000))
    assert (await failure_of(origin)).failure is OriginFailure.UNAVAILABLE
    await server.until(lambda: server.connections_open == 0)


async def test_close_during_the_body_drops_the_connection(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.hold("film.mp4", at=10)
    read = await origin.read("film.mp4")
    assert read is not None
    pieces = read.pieces()
    assert await anext(pieces) == FILM.read(Span(0, 10))
    await read.close()
    await read.close()
    await server.until(lambda: server.connections_open == 0)


async def test_close_after_the_end_is_idempotent(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    read = await origin.read("film.mp4")
    await read_all(read)
    assert read is not None
    await read.close()
    assert server.connections_open == 1


@pytest.mark.parametrize("turn", [Reply(silent=True), Reply(stall_at=10)])
async def test_cancelled_read_drops_the_connection(
    server: ScriptedOrigin, origin: HttpOrigin, turn: Reply
) -> None:
    server.script(turn)

    async def fetch() -> None:
        await read_all(await origin.read("film.mp4"))

    fetching = asyncio.create_task(fetch())
    await server.wait_for_requests(1)
    await server.until(lambda: turn.silent or server.body_bytes_sent == 10)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await server.until(lambda: server.connections_open == 0)


async def test_close_breaks_running_reads_and_is_idempotent(
    server: ScriptedOrigin, origin: HttpOrigin
) -> None:
    server.hold("film.mp4", at=10)
    read = await origin.read("film.mp4")
    await origin.close()
    await origin.close()
    with pytest.raises(OriginError) as caught:
        await read_all(read)
    assert caught.value.failure is OriginFailure.BROKEN
    await server.until(lambda: server.connections_open == 0)


@pytest.mark.parametrize("base", ["", "/", "/films", "/films/"])
async def test_target_is_below_the_path_of_the_url(server: ScriptedOrigin, base: str) -> None:
    origin = HttpOrigin(server.url + base, "a b")
    for request in (
        OriginRequest("GET", "x y", query="q=1"),
        OriginRequest("GET", "x y", query="q=2", path="x%20y"),
    ):
        server.script(Reply(200, body=b"x"))
        (await origin.send(request)).close()
    folder = base.rstrip("/")
    paths = [f"{folder}/a%20b/x%20y?q={number}" for number in (1, 2)]
    assert [one.path for one in server.requests] == paths
    await origin.close()


@pytest.mark.parametrize("query", ["a b", "a\r\nX-Own: 1", "a\x00", "\xe9", "a#b"])
async def test_query_with_a_character_that_may_not_be_sent_is_refused(
    server: ScriptedOrigin, query: str
) -> None:
    origin = HttpOrigin(server.url)
    with pytest.raises(ValueError, match="not a valid HTTP request"):
        await origin.send(OriginRequest("GET", "a", query=query))
    assert server.requests == []
    await origin.close()
