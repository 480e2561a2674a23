"""Journeys: viewers are redirected to the nearest edge, and find it by DNS."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamedge.delivery.rtmp.protocol.events import CAN_RECONNECT
from tests.support.certificate_authority import CertificateAuthority
from tests.support.dns.powerdns_server import run_powerdns
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.fleet.nearest_edges import ALIAS, EDGES, HOSTS, IN_PARIS, nearest_edges
from tests.support.fleet.places import BOSTON, OSAKA, PARIS
from tests.support.http.chromium import load_page_of
from tests.support.http.signers import custom_policy, rsa_signer
from tests.support.process.hosts import run_with_hosts
from tests.support.rtmp.rtmp_client import MEDIA, information, metric, open_raw_client, samples

LARGE = bytes(range(256)) * 8192  # 2 MiB
FRA, TYO, NYC = (address for address, _place in EDGES.values())
SIGNER = rsa_signer()


@pytest.fixture(name="redis_server")
def _redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(name="media_folder")
def _media_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "small.bin").write_bytes(LARGE[:1000])
    return folder


def test_programs_follow_to_the_nearest_edge(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path, media: Callable[[str], bytes]
) -> None:
    for name in ("film.mp4", "seen-by-mpv.mp4", "seen-by-vlc.mp4"):
        (media_folder / name).write_bytes(media("film.mp4"))
    with nearest_edges(tmp_path, redis_server, media_folder, rules='nearest_from = "0B"') as fleet:
        fleet.until(lambda: fleet.location("fra-1", "large.bin") != "")
        target = fleet.url("large.bin", f"tyo-1.{ALIAS}")
        assert fleet.location("fra-1", "large.bin") == target
        assert fleet.location("nyc-1", "large.bin") == target
        assert fleet.location("tyo-1", "large.bin") == ""
        assert fleet.location("fra-1", "large.bin", IN_PARIS) == ""

        completed = run_with_hosts(tmp_path, HOSTS, "curl", "-sSLf", fleet.url("large.bin"))
        assert completed.stdout == LARGE
        # An edge's own name is never redirected, whichever edge it leads to.
        hosts = HOSTS | {f"tyo-1.{ALIAS}": NYC}
        completed = run_with_hosts(tmp_path, hosts, "curl", "-sSLf", fleet.url("large.bin"))
        assert completed.stdout == LARGE

        frames = []
        for start in ("0", "1"):
            # A seek: ffmpeg asks the redirector again.
            completed = run_with_hosts(
                tmp_path,
                HOSTS,
                *("ffmpeg", "-v", "error", "-ss", start, "-i", fleet.url("film.mp4")),
                *("-map", "0:v", "-f", "framemd5", "-"),
            )
            lines = completed.stdout.decode().splitlines()
            frames.append([line for line in lines if not line.startswith("#")])
        assert len(frames[0]) > len(frames[1]) > 0
        run_with_hosts(
            tmp_path,
            HOSTS,
            *("mpv", "--no-config", "--ytdl=no", "--vo=null", "--ao=null", "--start=1"),
            *("--frames=5", fleet.url("seen-by-mpv.mp4")),
        )
        # VLC does not run as root. It writes what it reads into a file.
        copy = tmp_path / "copies" / "film.mp4"
        copy.parent.mkdir()
        run_with_hosts(
            tmp_path,
            HOSTS,
            *("unshare", "--user", "--map-user=1000", "--map-group=1000"),
            *("env", f"HOME={copy.parent}", "cvlc", "-I", "dummy", "--no-xlib", "--demux=dump"),
            *(f"--demuxdump-file={copy}", fleet.url("seen-by-vlc.mp4"), "vlc://quit"),
        )
        assert copy.read_bytes() == media("film.mp4")

        def statuses(edge: str, path: str) -> set[int]:
            lines = fleet.edges[edge].log("response")
            return {line["status"] for line in lines if line["path"] == path}

        for path in ("/film.mp4", "/seen-by-mpv.mp4", "/seen-by-vlc.mp4"):
            fleet.until(lambda path=path: statuses("tyo-1", path) != set())  # type: ignore[misc]
            assert statuses("tyo-1", path) <= {200, 206}
            assert statuses("fra-1", path) == {302}


def test_dead_and_draining_edges_get_no_viewers_and_viewers_stay(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path
) -> None:
    with nearest_edges(tmp_path, redis_server, media_folder, workers=2) as fleet:
        tokyo, new_york = (fleet.url("large.bin", f"{name}.{ALIAS}") for name in ("tyo-1", "nyc-1"))
        fleet.until(lambda: fleet.location("fra-1", "large.bin") == tokyo)
        fleet.command("nyc-1", "fleet", "drain", "tyo-1")
        # Frankfurt is nearer to Osaka than New York, also for viewers that ask there.
        frankfurt = fleet.url("large.bin", f"fra-1.{ALIAS}")
        fleet.until(lambda: fleet.location("fra-1", "large.bin") == "")
        fleet.until(lambda: fleet.location("nyc-1", "large.bin") == frankfurt)
        fleet.command("nyc-1", "fleet", "undrain", "tyo-1")
        fleet.until(lambda: fleet.states("fra-1")["tyo-1"] == "up")
        # Each request is a new viewer's: a viewer that was sent to an edge stays there.
        viewers = (f"127.2.{number // 250}.{number % 250 + 1}" for number in range(60_000))
        fleet.until(lambda: fleet.location("fra-1", "large.bin", next(viewers)) == tokyo)
        for _ in range(6):  # by both workers
            assert fleet.location("fra-1", "large.bin") == ""

        os.killpg(fleet.edges["fra-1"].pid, signal.SIGKILL)
        fleet.until(lambda: fleet.location("nyc-1", "large.bin") == tokyo)
        os.killpg(fleet.edges["tyo-1"].pid, signal.SIGKILL)
        fleet.until(lambda: fleet.location("nyc-1", "large.bin") == "")
        assert new_york != tokyo


def test_signed_url_is_valid_at_the_target(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path
) -> None:
    pem = tmp_path / "key.pem"
    pem.write_bytes(SIGNER.public_pem)
    tables = (
        f'[public_keys.{SIGNER.key_id}]\nfile = "{pem}"\n'
        f'[key_groups.viewers]\nkeys = ["{SIGNER.key_id}"]\n'
    )
    rules = 'trusted_key_groups = ["viewers"]'
    with nearest_edges(tmp_path, redis_server, media_folder, rules=rules, tables=tables) as fleet:
        until_s = int(time.time() + 600)
        canned = SIGNER.url(fleet.url("large.bin"), expires_s=until_s)
        policy = custom_policy(f"http://{ALIAS}*", until_s)
        custom = SIGNER.url(fleet.url("large.bin"), policy=policy)
        fleet.until(lambda: fleet.location("fra-1", urlsplit(canned).path[1:]) == "")
        jar = tmp_path / "cookies"
        pairs = (pair.split("=", 1) for pair in urlsplit(custom).query.split("&"))
        # For the alias and all names below it.
        lines = [
            f".{ALIAS}\tTRUE\t/\tFALSE\t0\tCloudFront-{name}\t{value}" for name, value in pairs
        ]
        jar.write_text("\n".join(lines) + "\n")
        for url, options in (
            (canned, ()),
            (custom, ()),
            (fleet.url("large.bin"), ("-b", str(jar))),
        ):
            completed = run_with_hosts(
                tmp_path,
                HOSTS,
                *("curl", "-sSLf", "-w", "%{stderr}%{url_effective}", *options, url),
            )
            assert completed.stdout == LARGE
            assert urlsplit(completed.stderr).hostname == f"tyo-1.{ALIAS}".encode()


PAGE = """<!doctype html><pre id="out"></pre><script>
(async () => {
  const responses = [];
  for (const headers of [{}, {range: "bytes=256-511"}]) {
    const response = await fetch("/large.bin", {headers});
    const body = new Uint8Array(await response.arrayBuffer());
    responses.push([response.status, response.redirected, response.url, body.length, body[1]]);
  }
  document.getElementById("out").textContent = JSON.stringify(responses);
})();
</script>"""


def test_browser_follows_over_http2(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path
) -> None:
    (media_folder / "page.html").write_text(PAGE)
    pair = CertificateAuthority(tmp_path).issue(ALIAS, f"*.{ALIAS}")
    with nearest_edges(
        tmp_path,
        redis_server,
        media_folder,
        rules='response_headers_policy = "any"',
        tables='[response_headers_policies.any]\ncors = { origins = ["*"], headers = ["range"] }\n',
        certificate=pair,
    ) as fleet:
        fleet.until(lambda: fleet.location("fra-1", "large.bin") != "")
        url = f"https://{ALIAS}:{fleet.https_port}/page.html"
        document = load_page_of(HOSTS, url, pair, tmp_path / "profile")
        shown = re.search('<pre id="out">(.*?)</pre>', document, re.DOTALL)
        assert shown is not None, document
        target = f"https://tyo-1.{ALIAS}:{fleet.https_port}/large.bin"
        assert json.loads(html.unescape(shown[1])) == [
            [200, True, target, len(LARGE), 1],
            [206, True, target, 256, 1],
        ]
        lines = [
            line
            for line in fleet.edges["tyo-1"].log("response")
            if line["path"] == "/large.bin" and line["method"] == "GET"
        ]
        assert {line["http_version"] for line in lines} == {"2"}


async def test_rtmp_client_that_announces_it_is_redirected(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path, media: Callable[[str], bytes]
) -> None:
    (media_folder / "film.mp4").write_bytes(media("film.mp4"))
    with nearest_edges(tmp_path, redis_server, media_folder) as fleet:
        fleet.until(lambda: fleet.location("fra-1", "large.bin") != "")
        port = fleet.edges["fra-1"].rtmp_port
        async with open_raw_client(port, FRA) as client:
            url = f"rtmp://{ALIAS}:{port}/cfx/st?redirect=302"
            client.command("connect", {"app": "cfx/st", "tcUrl": url}, transaction=1.0)
            [*_, rejection] = await client.until_named("NetConnection.Connect.Rejected")
        elsewhere = information(rejection)["ex"]["redirect"]
        assert elsewhere == f"rtmp://tyo-1.{ALIAS}:{port}/cfx/st?redirect=302"
        async with open_raw_client(port, TYO) as client:
            await client.connect("cfx/st", tcUrl=elsewhere)
        sample = 'streamedge_edge_redirects_total{edge="tyo-1",protocol="%s"}'
        fleet.until(lambda: metric(fleet.edges["fra-1"], sample % "rtmp") == 1)
        assert metric(fleet.edges["fra-1"], sample % "http") > 0
        # Players that know nothing of it play where they are.
        completed = run_with_hosts(
            tmp_path,
            HOSTS,
            *(
                "ffmpeg",
                "-v",
                "error",
                "-t",
                "1",
                "-i",
                f"rtmp://{ALIAS}:{port}/cfx/st/mp4:film.mp4",
            ),
            *("-map", "0:v", "-f", "framemd5", "-"),
        )
        assert len(completed.stdout.splitlines()) > 10


@pytest.mark.parametrize("end", ["drain", "stop"])
async def test_rtmp_client_of_an_edge_that_ends_goes_on_at_another_one(
    tmp_path: Path,
    redis_server: RedisServer,
    media_folder: Path,
    media: Callable[[str], bytes],
    end: str,
) -> None:
    (media_folder / "film.mp4").write_bytes(media("film.mp4"))
    announced = {"capsEx": float(CAN_RECONNECT)}
    with nearest_edges(tmp_path, redis_server, media_folder) as fleet:
        port = fleet.edges["tyo-1"].rtmp_port
        url = f"rtmp://{ALIAS}:{port}/cfx/st"
        async with open_raw_client(port, TYO) as client:
            await client.connect("cfx/st", tcUrl=url, **announced)
            await client.create_stream()
            client.buffer(1000)
            client.play("film.mp4")
            await client.until_named("NetStream.Play.Start")
            if end == "drain":
                await asyncio.to_thread(fleet.command, "nyc-1", "fleet", "drain", "tyo-1")
            else:
                os.kill(fleet.edges["tyo-1"].pid, signal.SIGTERM)
            received = await client.until_named("NetConnection.Connect.ReconnectRequest")
            elsewhere = information(received[-1])["tcUrl"]
            assert elsewhere == f"rtmp://fra-1.{ALIAS}:{port}/cfx/st"
            # The play goes on until the client leaves.
            received += await client.until(lambda m: m.type_id in MEDIA and m.timestamp_ms > 2000)
            position_ms = samples(client.messages)[-1].time_ms
        async with open_raw_client(port, FRA) as client:
            await client.connect("cfx/st", tcUrl=elsewhere, **announced)
            await client.create_stream()
            client.buffer(36_000_000)
            client.play("film.mp4")
            client.seek(position_ms)
            await client.until_named("NetStream.Seek.Notify")
            rest = samples(await client.until_named("NetStream.Play.Stop"))
        assert rest[0].is_keyframe
        assert position_ms - rest[0].time_ms >= 0
        [line] = fleet.edges["tyo-1"].log("rtmp_reconnect_requested")
        assert line["edge"] == f"fra-1.{ALIAS}:{port}"


def test_dns_leads_to_the_nearest_live_edge(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path
) -> None:
    places = {"10.1.0.0/16": PARIS, "10.2.0.0/16": OSAKA, "10.3.0.0/16": BOSTON}
    with (
        run_powerdns(tmp_path / "powerdns", places) as dns,
        nearest_edges(tmp_path, redis_server, media_folder) as fleet,
    ):
        printed = fleet.command("nyc-1", "fleet", "zone").stdout
        assert f"tyo-1.{ALIAS}.\t30\tIN\tA\t{TYO}" in printed
        options = ("--push", dns.url, "--api-key-file", str(dns.key_file), "--dns", dns.address)
        pushed = fleet.command("nyc-1", "fleet", "zone", *options).stdout
        assert f"added: {ALIAS} LUA" in pushed

        def answers() -> list[list[str]]:
            return [dns.dig(ALIAS, subnet=f"10.{number}.9.0/24") for number in (1, 2, 3)]

        assert answers() == [[FRA], [TYO], [NYC]]
        fleet.command("nyc-1", "fleet", "drain", "fra-1")
        fleet.until(lambda: fleet.traffic("fra-1") == 503)
        dns.until(lambda: answers() == [[NYC], [TYO], [NYC]])
        os.killpg(fleet.edges["tyo-1"].pid, signal.SIGKILL)
        dns.until(lambda: answers() == [[NYC], [NYC], [NYC]])
        fleet.command("nyc-1", "fleet", "undrain", "fra-1")
        dns.until(lambda: answers() == [[FRA], [FRA], [NYC]])
        fleet.until(lambda: fleet.states("nyc-1")["tyo-1"] == "gone")
        fleet.command("nyc-1", "fleet", "remove", "tyo-1")
        pushed = fleet.command("nyc-1", "fleet", "zone", *options).stdout
        assert f"removed: tyo-1.{ALIAS} A" in pushed
        assert answers() == [[FRA], [FRA], [NYC]]


def test_zone_of_a_fleet_of_one_is_refused(
    tmp_path: Path, redis_server: RedisServer, media_folder: Path
) -> None:
    with nearest_edges(tmp_path, redis_server, media_folder) as fleet:
        missing = str(tmp_path / "no-key")
        failed = fleet.command(
            "fra-1", "fleet", "zone", "--push", "127.0.0.1:1", "--api-key-file", missing, code=1
        )
        assert f"{missing} cannot be read" in failed.stderr
        failed = fleet.command("fra-1", "fleet", "zone", "--push", "http://127.0.0.1:1", code=1)
        assert "--api-key-file belong together" in failed.stderr
        failed = fleet.command("fra-1", "fleet", "zone", "--dns", "no port", code=2)
        assert "--dns" in failed.stderr
