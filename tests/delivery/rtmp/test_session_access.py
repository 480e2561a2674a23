"""Access checks of sessions: at connect, at each play and at each seek."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.access.admission import AccessRules, CountryRule
from streamedge.access.geo import CountryDatabase
from streamedge.access.wildcards import compile_pattern
from streamedge.delivery.hosts import HostTable
from streamedge.delivery.rtmp.stream_access import NOT_ALLOWED
from streamedge.delivery.rtmp.streams import WRONG_SIGNATURES_MAX
from tests.support.rtmp.rtmp_client import (
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe, sample_file
from tests.support.rtmp.rtmp_signer import changed, rsa_signer

START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"
FAILED, NOTIFY = "NetStream.Play.Failed", "NetStream.Seek.Notify"
NOT_FOUND = "NetStream.Play.StreamNotFound"
SIGNER, OTHER = rsa_signer(), rsa_signer("KOTHER")
SIGNED = AccessRules({SIGNER.key_id: SIGNER.public_key})
STEP_MS = 40


def movie(count: int, size_bytes: int = 40_000) -> bytes:
    """A film of keyframes of this size."""
    return avc_mp4([keyframe(size_bytes + number) for number in range(count)], STEP_MS)


async def refused(client: RtmpClient) -> None:
    """Reads up to a refusal, and checks that it has no reason."""
    (status,) = (await client.until_named(FAILED, STOP, NOT_FOUND))[-1:]
    details = information(status)
    assert (details["code"], details["level"], details["description"]) == (
        FAILED,
        "error",
        NOT_ALLOWED,
    )


def reasons(edge: RtmpEdge) -> list[str]:
    return [line["reason"] for line in edge.lines("rtmp_stop")]


# Plays


async def test_signed_name_plays_and_its_signature_is_not_stored(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("dir/film.mp4", movie(20))
        name = SIGNER.canned("mp4:dir/film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            assert await client.call("getStreamLength", name) == pytest.approx(0.8)
            client.play(name)
            assert len(samples(await client.until_named(STOP))) == 20
        await edge.until_gone()
        (play,) = edge.lines("rtmp_play")
        assert (play["stream"], play["key"]) == ("mp4:dir/film.mp4", SIGNER.key_id)
        assert play["object"] == "dir/film.mp4"
        signature = name.partition("Signature=")[2].partition("&")[0]
        assert signature not in edge.log_text
        assert {request.path for request in edge.origin.requests} == {"/dir/film.mp4"}


async def test_signature_is_not_part_of_the_cache_key(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(20))
        async with open_client(edge.port) as client:
            for until_s in (60, 120):
                client.play(SIGNER.canned("film", edge.now_s + until_s))
                await client.until_named(STOP)
            requests_before = len(edge.origin.requests)
            client.play(SIGNER.custom("film", edge.now_s + 60, covering="*"))
            await client.until_named(STOP)
        assert len(edge.origin.requests) == requests_before
        results = [line["cache"] for line in edge.lines("rtmp_play")]
        assert results[1:] == ["Hit", "Hit"]


async def test_refused_viewer_gets_no_reason(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(20))
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        names = [
            "film.mp4",
            "missing.mp4",
            "film",
            changed(name, name.index("Signature=") + 100),
            changed(name, 1),
            SIGNER.canned("film.mp4", edge.now_s - 1),
            SIGNER.custom("film.mp4", edge.now_s + 60, covering="other*"),
            SIGNER.custom("film.mp4", edge.now_s + 60, covering="*", network="192.0.2.0/24"),
            OTHER.canned("film.mp4", edge.now_s + 60),
        ]
        async with open_client(edge.port) as client:
            for each in names:
                client.play(each)
                await refused(client)
                with pytest.raises(KeyError, match=FAILED):
                    await client.call("getStreamLength", each)
            # The connection can still play.
            client.play(name)
            await client.until_named(START)
        assert reasons(edge)[: len(names)] == [
            f"{FAILED}: {reason}"
            for reason in (
                "not signed",
                "not signed",
                "not signed",
                "signature does not match",
                "signature does not match",
                "expired",
                "policy is for another resource",
                "address is not allowed",
                "key is not trusted",
            )
        ]
        # No request reached the origin for them.
        assert {request.path for request in edge.origin.requests} <= {"/film.mp4"}
        assert not any(line["event"] == "rtmp_play" for line in edge.lines()[: len(names)])


async def test_only_signed_objects_are_requested(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.flv", sample_file("film.flv"))
        edge.origin.put("film.mp4", movie(20))
        signature = SIGNER.canned("film.mp4", edge.now_s + 60).partition("?")[2]
        async with open_client(edge.port) as client:
            client.play(f"film?{signature}")
            await client.until_named(START)
        assert edge.lines("rtmp_play")[0]["object"] == "film.mp4"
        assert {request.path for request in edge.origin.requests} == {"/film.mp4"}


async def test_client_with_too_many_wrong_signatures_is_disconnected(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(20))
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        wrong = changed(name, name.index("Signature=") + 100)
        async with open_client(edge.port) as client:
            for number in range(WRONG_SIGNATURES_MAX - 1):
                if number % 2:
                    with pytest.raises(KeyError, match=FAILED):
                        await client.call("getStreamLength", wrong)
                else:
                    client.play(wrong)
                    await refused(client)
            # Refusals without a verification do not count, and a right signature does not reset the
            # count.
            for _ in range(WRONG_SIGNATURES_MAX):
                client.play(SIGNER.canned("film.mp4", edge.now_s - 1))
                await refused(client)
            client.play(name)
            await client.until_named(STOP)
            client.play(wrong)
            await refused(client)
            await client.closed()
        await edge.until_gone()
        (line,) = edge.lines("rtmp_disconnect")
        assert line["reason"] == "too many wrong signatures"


async def test_concurrent_wrong_signatures_are_limited(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            for at in range(2 * WRONG_SIGNATURES_MAX):
                wrong = changed(name, name.index("Signature=") + 50 + at)
                client.play(wrong, -2000, -1000, False)  # one after another
            await client.closed()
        await edge.until_gone()
        refused = [reason for reason in reasons(edge) if reason.endswith("does not match")]
        assert len(refused) == WRONG_SIGNATURES_MAX
        assert edge.lines("rtmp_disconnect")[0]["reason"] == "too many wrong signatures"


async def test_signature_of_each_item_is_checked_when_it_begins(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.hold("film.mp4", at=1_000_000)
        soon, later = (SIGNER.canned("film.mp4", edge.now_s + s) for s in (60, 600))
        async with open_client(edge.port) as client:
            client.play(soon)
            await client.until_named(START)
            client.play(soon, 0.0, -1.0, False)
            client.play(later, 0.0, -1.0, False)
            await client.read_pending()
            edge.now_s += 61
            edge.origin.release("film.mp4")
            await refused(client)
            received = await client.until_named(STOP)
            assert message_name(received[-1]) == STOP
            assert len(samples(received)) == 50
        await edge.until_gone()
        assert edge.readers == 0


async def test_switch_needs_a_signature_of_its_own(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.hold("film.mp4", at=1_000_000)
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            client.play(name)
            await client.until_named(START)
            for wrong in ("film.mp4", SIGNER.canned("film.mp4", edge.now_s - 1)):
                client.play2(wrong, "switch")
                await client.until_named(FAILED)
            edge.origin.release("film.mp4")
            await client.until_named(STOP)
            assert len(samples(client.messages)) == 50
        await edge.until_gone()
        assert edge.readers == 0


# Seeks


async def test_expired_signature_lets_a_play_end_and_refuses_a_seek(
    cache_root: Path,
) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.hold("film.mp4", at=1_000_000)
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            client.play(name)
            await client.until_named(START)
            edge.now_s += 59
            client.seek(STEP_MS * 10)
            await client.until_named(NOTIFY)
            edge.now_s += 1
            client.pause(True, 0)
            await client.until_named("NetStream.Pause.Notify")
            client.pause(False, 0)
            edge.origin.release("film.mp4")
            assert samples(await client.until_named(STOP))[-1].time_ms == STEP_MS * 49
            client.seek(STEP_MS * 10)
            await refused(client)
            # The play has ended.
            client.seek(STEP_MS * 10)
            await client.until_named("NetStream.Seek.Failed")
        assert reasons(edge) == [f"{FAILED}: expired"]
        assert [line["at_ms"] for line in edge.lines("rtmp_seek")] == [STEP_MS * 10]
        await edge.until_gone()
        assert edge.readers == 0


async def test_resume_that_goes_back_checks_access_again(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.hold("film.mp4", at=1_000_000)
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            client.play(name)
            await client.until(
                lambda message: any(one.time_ms >= STEP_MS * 10 for one in samples([message]))
            )
            client.pause(True, STEP_MS)
            await client.until_named("NetStream.Pause.Notify")
            edge.now_s += 60
            client.pause(False, STEP_MS)
            await refused(client)
            edge.origin.release("film.mp4")
        assert reasons(edge) == [f"{FAILED}: expired"]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
async def test_seek_after_an_invalidation_plays_the_new_version(
    cache_root: Path, soft: bool
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie(50))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(STOP)
            edge.origin.put("film.mp4", movie(100, 50_000), etag='"2"')
            # Without an invalidation it is the same version.
            client.seek(STEP_MS * 10)
            received = await client.until_named(STOP)
            assert [duration(received), samples(received)[-1].time_ms] == [2.0, STEP_MS * 49]
            edge.invalidate("/film.mp4", soft=soft)
            client.seek(STEP_MS * 60)
            received = await client.until_named(NOTIFY, FAILED)
            assert message_name(received[-1]) == NOTIFY
            received = await client.until_named(STOP)
            assert duration(received) == 4.0
            assert [frame.is_header for frame in frames(received)][:1] == [True]
            assert [frame.time_ms for frame in samples(received)] == list(
                range(STEP_MS * 60, STEP_MS * 100, STEP_MS)
            )
            assert len(samples(received)[0].body) > 50_000
        await edge.until_gone()
        assert edge.readers == 0


def duration(received: list[Any]) -> float:
    """The duration in the onMetaData of messages."""
    (metadata,) = (
        information(message) for message in received if message_name(message) == "onMetaData"
    )
    return float(metadata["duration"])


@pytest.mark.parametrize("paused", [False, True], ids=["playing", "paused"])
async def test_seek_to_an_invalidated_and_deleted_object_is_not_found(
    cache_root: Path, paused: bool
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.put("other.mp4", movie(50))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(START)
            if paused:
                client.pause(True, 0)
                await client.until_named("NetStream.Pause.Notify")
            edge.origin.remove("film.mp4")
            edge.invalidate("/other*")
            client.seek(STEP_MS * 10)
            await client.until_named(NOTIFY)
            edge.invalidate("/*")
            client.seek(STEP_MS * 20)
            received = await client.until_named(NOT_FOUND, NOTIFY)
            assert message_name(received[-1]) == NOT_FOUND
            client.play("other.mp4")
            await client.until_named(STOP)
        await edge.until_gone()
        assert edge.readers == 0


# Connects


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("https://www.example.com/films.html", None),
        ("https://evil.example/films.html", "page 'https://evil.example/films.html' is none of"),
        (None, "the client sent no pageUrl"),
    ],
)
async def test_only_allowed_pages_may_connect(
    cache_root: Path, page: str | None, reason: str | None
) -> None:
    pages = [compile_pattern("https://www.example.com/*")]
    async with serve_rtmp(cache_root, pages=pages) as edge:
        more = {"pageUrl": page} if page else {}
        await connects(edge, reason, **more)


class Atlas(CountryDatabase):
    """All addresses are in one country, which may change."""

    def __init__(self, code: str) -> None:
        super().__init__(None)
        self.code = code

    def country(self, address: str) -> str:
        assert address == "127.0.0.1"
        return self.code


@pytest.mark.parametrize(
    ("code", "reason"),
    [("DE", None), ("FR", "country FR is not allowed"), ("", "country unknown is not allowed")],
)
async def test_only_allowed_countries_may_connect(
    cache_root: Path, code: str, reason: str | None
) -> None:
    access = AccessRules(None, CountryRule(frozenset({"DE"}), True, False))
    async with serve_rtmp(cache_root, access=access, countries=Atlas(code)) as edge:
        await connects(edge, reason)


async def connects(edge: RtmpEdge, reason: str | None, **more: Any) -> None:
    """Connects. With a ``reason``, the connect is rejected and the reason is logged."""
    async with open_raw_client(edge.port) as client:
        if reason is None:
            await client.connect("cfx/st", tcUrl="rtmp://127.0.0.1/cfx/st", **more)
            return
        with pytest.raises(KeyError, match=r"NetConnection\.Connect\.Rejected"):
            await client.connect("cfx/st", tcUrl="rtmp://127.0.0.1/cfx/st", **more)
        assert information(client.messages[-1])["description"] == NOT_ALLOWED
        await client.closed()
    await edge.until_gone()
    (line,) = edge.lines("rtmp_disconnect")
    assert line["reason"].startswith(reason)
    assert not edge.lines("rtmp_connect")


async def test_signatures_in_a_connect_are_not_logged(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        url = SIGNER.canned("rtmp://127.0.0.1/cfx/st", edge.now_s + 60)
        app = "cfx/st?" + url.partition("?")[2]
        page = url.replace("rtmp", "http")
        async with open_client(edge.port, app, tcUrl=url, pageUrl=page) as client:
            await client.read_pending()
        with pytest.raises(KeyError):
            async with open_client(edge.port, app.replace("cfx", "other"), tcUrl=url):
                pass
        await edge.until_gone()
        (line,) = edge.lines("rtmp_connect")
        assert line["tc_url"] == "rtmp://127.0.0.1/cfx/st"
        assert line["page"] == "http://127.0.0.1/cfx/st"
        assert "InvalidInstance: application 'other/st'" in edge.log_text
        assert "Signature=" not in edge.log_text


# Rules that change during a play


async def test_removed_key_is_refused(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, access=SIGNED) as edge:
        edge.origin.put("film.mp4", movie(50))
        name = SIGNER.canned("film.mp4", edge.now_s + 60)
        async with open_client(edge.port) as client:
            client.play(name)
            await client.until_named(STOP)
            edge.rule(access=AccessRules({OTHER.key_id: OTHER.public_key}))
            client.seek(0)
            await refused(client)
            client.play(name)
            await refused(client)
            client.play(OTHER.canned("film.mp4", edge.now_s + 60))
            await client.until_named(STOP)
        assert reasons(edge)[:2] == [f"{FAILED}: key is not trusted"] * 2


async def test_running_play_outlives_its_distribution(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie(50))
        edge.origin.hold("film.mp4", at=1_000_000)
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(START)
            edge.streams.replace(HostTable([]))
            edge.origin.release("film.mp4")
            assert len(samples(await client.until_named(STOP))) == 50
            client.seek(0)
            await refused(client)
            client.play("film.mp4")
            await refused(client)
            with pytest.raises(KeyError, match="InvalidApp"):
                async with open_client(edge.port):
                    pass
        assert ["DistributionNotFound" in reason for reason in reasons(edge)] == [True, True]


async def test_country_that_is_denied_later_is_refused_at_the_next_play(cache_root: Path) -> None:
    atlas = Atlas("FR")
    async with serve_rtmp(cache_root, countries=atlas) as edge:
        edge.origin.put("film.mp4", movie(50))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(STOP)
            edge.rule(access=AccessRules(None, CountryRule(frozenset({"FR"}), False, True)))
            client.seek(0)
            await refused(client)
            atlas.code = "DE"
            client.play("film.mp4")
            await client.until_named(STOP)


async def test_object_of_a_name_is_forgotten_with_its_distribution(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie(20))
        async with open_client(edge.port) as client:
            client.play("film")
            await client.until_named(STOP)
            edge.origin.put("film.flv", sample_file("film.flv"))
            client.play("film")
            await client.until_named(STOP)
            edge.rule(rules=edge.distribution.rules)
            edge.invalidate("/*")
            client.play("film")
            await client.until_named(STOP)
        objects = [line["object"] for line in edge.lines("rtmp_play")]
        assert objects == ["film.mp4", "film.mp4", "film.flv"]


async def test_client_may_leave_during_a_seek_that_waits_for_the_new_version(
    cache_root: Path,
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", movie(50))
        async with open_client(edge.port) as client:
            client.play("film.mp4")
            await client.until_named(STOP)
            edge.invalidate("/film.mp4")
            edge.origin.hold_responses()
            requests_before = len(edge.origin.requests)
            client.seek(0)
            await edge.origin.wait_for_requests(requests_before + 1)
        edge.origin.release_responses()
        await edge.until_gone()
        assert edge.readers == 0
