"""Real edges with a tier: the fleet reads each byte of the origin once, and what fails."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.fleet.tier_edges import PATIENT, TierEdges, tier_edges
from tests.support.fleet.viewer import get
from tests.support.http.signers import rsa_signer
from tests.support.origins.counting_origin import CountingOrigin, content, counting_origin
from tests.support.process.edge_process import EdgeProcess
from tests.support.rtmp.rtmp_media import expected, sample_file
from tests.support.rtmp.rtmp_players import expected_packets, ffmpeg, packets

SIGNER = rsa_signer()
MIB = 1 << 20
DISTRIBUTIONS = f"""
[public_keys.{SIGNER.key_id}]
file = "KEY_FILE"
[key_groups.site]
keys = ["{SIGNER.key_id}"]
[cache_policies.flavours]
default_ttl = 3600
headers = []
query_strings = "all"
[origin_request_policies.flavours]
headers = ["x-flavour"]
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
cache_policy = "flavours"
origin_request_policy = "flavours"
cache_tag_header = "cache-tag"
compress = true
[[distributions]]
id = "ESIGNED"
type = "web"
origin = "main"
aliases = ["signed.test"]
trusted_key_groups = ["site"]
[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "main"
"""


@dataclass
class Site:
    fleet: TierEdges
    origin: CountingOrigin

    def edge(self, name: str) -> EdgeProcess:
        return self.fleet.edges[name]

    def child(self) -> EdgeProcess:
        """An edge that is no parent."""
        return self.edge("lon-1")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Four edges, of which two are the tier. Tests use objects of their own."""
    folder = tmp_path_factory.mktemp("tier")
    (folder / "signer.pem").write_bytes(SIGNER.public_pem)
    distributions = DISTRIBUTIONS.replace("KEY_FILE", str(folder / "signer.pem"))
    with (
        counting_origin({}) as origin,
        tier_edges(folder, origin.url, distributions=distributions, prelude=PATIENT) as fleet,
    ):
        yield Site(fleet, origin)


def test_crowd_on_all_edges_reads_each_byte_of_the_origin_once(site: Site) -> None:
    sizes = {f"crowd/film-{n}": 300_000 + n * 70_001 for n in range(12)}
    site.origin.sizes |= sizes
    before = site.origin.total_bytes
    edges = site.fleet.edges.values()
    jobs = [(edge, name) for name in sizes for edge in edges for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda job: get(*job), jobs))
    for (_edge, name), answer in zip(jobs, answers, strict=True):
        assert answer.body == site.origin.bytes_of(name)
    assert site.origin.total_bytes - before <= 1.02 * sum(sizes.values())
    for edge in edges:
        edge.await_metric("streamedge_peer_requests_total", lambda count: count > 0)
        assert edge.metric("streamedge_origin_bypasses_total") == 0


def test_long_object_is_spread_over_the_tier_and_read_once(site: Site) -> None:
    name, size = "long/film", 150 * MIB
    site.origin.sizes[name] = size
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda edge: get(edge, name), site.fleet.edges.values()))
    whole = site.origin.bytes_of(name)
    assert all(answer.body == whole for answer in answers)
    # Where an extent ends, another owner goes on: what is in the network by then is lost.
    assert site.origin.sent_bytes[name] <= size + 3 * 8 * MIB
    assert site.origin.count("GET", f"/{name}") >= 3


def test_range_behind_the_first_extent_of_a_cold_object(site: Site) -> None:
    name = "seek/film"
    site.origin.sizes[name] = 130 * MIB
    start = 100 * MIB + 12_345
    fields = {"range": f"bytes={start}-{start + 99_999}"}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [edge for edge in site.fleet.edges.values() for _ in range(2)]
        answers = list(pool.map(lambda edge: get(edge, name, fields), jobs))
    expected_bytes = site.origin.bytes_of(name)[start : start + 100_000]
    assert [answer.status for answer in answers] == [206] * 8
    assert all(answer.body == expected_bytes for answer in answers)
    assert site.origin.sent_bytes[name] <= 2 * MIB
    end = get(site.child(), name, {"range": "bytes=-1000"}).body
    assert end == site.origin.bytes_of(name)[-1000:]


def test_small_object_not_found_and_head(site: Site) -> None:
    site.origin.sizes["small/one"] = 1000
    for edge in site.fleet.edges.values():
        head = get(edge, "small/one", method="HEAD")
        assert (head.status, head.fields["content-length"], head.body) == (200, "1000", b"")
        assert get(edge, "small/one").body == site.origin.bytes_of("small/one")
        assert get(edge, "small/none").status == 404
    assert site.origin.sent_bytes["small/one"] == 1000
    assert site.origin.count("GET", "/small/none") == 1


def test_variants_are_kept_apart(site: Site) -> None:
    name = "vary/page"
    site.origin.sizes[name] = 200_000
    for edge in site.fleet.edges.values():
        for flavour in ("sweet", "sour"):
            answer = get(edge, name, {"x-flavour": flavour})
            assert answer.body == content(name + flavour, 200_000)
            part = get(edge, name, {"x-flavour": flavour, "range": "bytes=100000-100099"})
            assert part.body == content(name + flavour, 200_000)[100_000:100_100]
    assert site.origin.sent_bytes[name] == 400_000


def test_age_goes_on_and_revalidation_goes_through_the_tier(site: Site) -> None:
    site.origin.sizes["aged/page"] = 5000
    ages = [int(get(edge, "aged/page").fields["age"]) for edge in site.fleet.edges.values()]
    assert all(age >= 50 for age in ages)
    assert site.origin.count("GET", "/aged/page") == 1


def test_uncacheable_objects_go_from_the_viewers_edge_to_the_origin(site: Site) -> None:
    name = "private/page"
    site.origin.sizes[name] = 2000
    for _ in range(4):
        assert get(site.child(), name).body == site.origin.bytes_of(name)
    answered = site.child().await_metric(
        "streamedge_peer_requests_total", lambda count: count > 0, 'result="answered",role="child"'
    )
    for _ in range(20):
        get(site.child(), name)
    lines = site.edge("fra-1").log("peer_response") + site.edge("ams-1").log("peer_response")
    assert sum(line["name"] == name for line in lines) <= 1
    assert answered >= 1


def test_compression_and_signatures_stay_at_the_viewers_edge(site: Site) -> None:
    site.origin.sizes["text/page"] = 60_000
    for edge in site.fleet.edges.values():
        packed = get(edge, "text/page", {"accept-encoding": "gzip"})
        assert packed.fields["content-encoding"] == "gzip"
        url = SIGNER.url("http://signed.test/text/page", expires_s=1 << 32)
        target = url.removeprefix("http://signed.test/")
        assert get(edge, target, {"host": "signed.test"}).body == site.origin.bytes_of("text/page")
        assert get(edge, "text/page", {"host": "signed.test"}).status == 403
    assert site.origin.sent_bytes["text/page"] == 60_000


def test_fields_between_edges_come_from_edges_only(site: Site) -> None:
    site.origin.sizes["rude/page"] = 4000
    answer = get(site.child(), "rude/page", {"streamedge-peer": "edge=x; rank=0; need=1-1"})
    assert answer.body == site.origin.bytes_of("rude/page")
    get(site.edge("par-1"), "rude/page")
    assert site.origin.count("GET", "/rude/page") == 1
    (sent,) = [fields for _, path, fields in site.origin.requests if path == "/rude/page"]
    assert not [name for name in sent if name.startswith("streamedge-")]
    assert "streamedge-lon-1" in sent["cdn-loop"]


async def test_rtmp_play_goes_through_the_tier(site: Site) -> None:
    name = "films/film.mp4"
    site.origin.contents[name] = sample_file("film.mp4")
    for edge in site.fleet.edges.values():
        result = await ffmpeg(edge.rtmp(name))
        assert packets(result.output) == expected_packets(expected("film.mp4")), result.stderr
    assert site.origin.sent_bytes[name] <= 1.02 * len(sample_file("film.mp4"))
