"""Real edges with a tier: what holds with one edge holds with it (tags, countries, validation)."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.engine.redis_server import run_redis
from tests.support.fleet.tier_edges import PATIENT, TierEdges, tier_edges
from tests.support.fleet.viewer import get
from tests.support.mmdb_file import country, mmdb
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause

NAMES = ("fra-1", "ams-1", "lon-1")  # the first two are the tier
IN_FRANCE = "127.0.0.9"
DISTRIBUTIONS = """
[countries]
database = "DATABASE"
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
cache_tag_header = "cache-tag"
[[distributions]]
id = "ECOUNTRIES"
type = "web"
origin = "main"
aliases = ["countries.test"]
countries = { deny = ["DE"] }
"""
BUCKET = """type = "s3"
bucket = "{bucket}"
endpoint = "{s3.endpoint}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}\""""
VALIDATED = """
[cache_policies.validated]
default_ttl = 0
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
cache_policy = "validated"
"""


@dataclass
class Site:
    fleet: TierEdges
    origin: CountingOrigin

    @property
    def edges(self) -> list[EdgeProcess]:
        return list(self.fleet.edges.values())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Tests use objects of their own. All viewers are in Germany, but for one address."""
    folder = tmp_path_factory.mktemp("rules")
    database = folder / "countries.mmdb"
    places = {"127.0.0.0/8": country("DE"), f"{IN_FRANCE}/32": country("FR")}
    database.write_bytes(mmdb(places))
    with (
        run_redis(folder / "redis") as redis,
        counting_origin({}) as origin,
        tier_edges(
            folder / "edges",
            origin.url,
            names=NAMES,
            engine=redis.url,
            prelude=PATIENT,
            distributions=DISTRIBUTIONS.replace("DATABASE", str(database)),
        ) as fleet,
    ):
        yield Site(fleet, origin)


@pytest.mark.parametrize("number", range(3))
def test_invalidation_by_tag_covers_what_came_through_the_tier(site: Site, number: int) -> None:
    name = f"tagged/{number}"
    site.origin.sizes[name] = 20_000
    old = site.origin.bytes_of(name)
    assert [get(edge, name).body for edge in site.edges] == [old] * 3
    site.origin.editions[name] = 1
    new = site.origin.bytes_of(name)
    assert [get(edge, name).body for edge in site.edges] == [old] * 3
    first = site.edges[number]
    request = urllib.request.Request(
        f"http://127.0.0.1:{first.admin_port}/invalidations",
        json.dumps({"distribution": "EWEB", "tags": ["news"], "wait": True}).encode(),
        {"content-type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    assert [get(edge, name).body for edge in site.edges] == [new] * 3
    assert site.origin.sent_bytes[name] == 2 * 20_000


def test_country_of_the_viewer_decides_at_its_edge(site: Site) -> None:
    name = "films/one"
    site.origin.sizes[name] = 20_000
    for edge in site.edges:
        allowed = get(edge, name, fields={"host": "countries.test"}, viewer=IN_FRANCE)
        assert (allowed.status, allowed.body) == (200, site.origin.bytes_of(name))
        assert get(edge, name, fields={"host": "countries.test"}).status == 403
    assert site.origin.sent_bytes[name] == 20_000


def test_stale_object_is_validated_through_the_tier_and_read_once(site: Site) -> None:
    name = "short/page"
    site.origin.sizes[name] = 20_000
    body = site.origin.bytes_of(name)
    deadline_s = time.monotonic() + PATIENCE_S
    while site.origin.count("GET", f"/{name}") + site.origin.count("HEAD", f"/{name}") < 4:
        assert time.monotonic() < deadline_s
        assert [get(edge, name).body for edge in site.edges] == [body] * 3
        pause()
    first, *others = [
        fields for _, path, fields in list(site.origin.requests) if path == f"/{name}"
    ]
    assert "if-none-match" not in first
    assert all("if-none-match" in fields for fields in others)
    assert site.origin.sent_bytes[name] == 20_000


def test_age_is_that_at_the_origin_and_counted_once(site: Site) -> None:
    name = "aged/page"
    site.origin.sizes[name] = 20_000
    began_s = time.monotonic()
    for _ in range(2):
        for edge in site.edges:
            age_s = int(get(edge, name).fields["age"])
            assert 50 <= age_s <= 50 + time.monotonic() - began_s + 1


def test_check_names_what_is_missing_and_what_expires(site: Site) -> None:
    for name, edge in site.fleet.edges.items():
        problems = json.loads(edge.admin("/fleet/check"))["problems"]
        for one in NAMES:
            assert sum(one_problem.startswith(f"{one} has no ") for one_problem in problems) == 2
        certificate = site.fleet.certificates[name].certificate
        for path in (certificate, site.fleet.authority.root):
            assert sum(str(path) in problem and "expires" in problem for problem in problems) == 1
        assert len(problems) == 2 * len(NAMES) + 2


@pytest.fixture
def bucket_fleet(tmp_path: Path, s3: S3Server) -> Iterator[tuple[TierEdges, str]]:
    bucket = f"tier-{time.time_ns()}"
    s3.create_bucket(bucket)
    with tier_edges(
        tmp_path / "edges",
        "",
        names=("fra-1", "lon-1"),
        parents=1,
        distributions=VALIDATED,
        origin_lines=BUCKET.format(bucket=bucket, s3=s3),
    ) as fleet:
        yield fleet, bucket


def test_changed_object_of_a_bucket_is_read_through_the_tier(
    bucket_fleet: tuple[TierEdges, str], s3: S3Server
) -> None:
    fleet, bucket = bucket_fleet
    for content in (b"one", b"other", b"larger than a small object" * 10_000, b"small again"):
        s3.put(bucket, "film", content)
        for name in ("lon-1", "fra-1", "lon-1"):
            answer = get(fleet.edges[name], "film")
            assert (answer.status, answer.body) == (200, content)
