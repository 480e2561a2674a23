"""Real edges with a tier: owners that die, stop, are behind, or see another fleet."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import os
import signal
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamedge.fleet.members import Member
from streamedge.fleet.ownership import ranks
from streamedge.keys import join_key
from streamedge.origin.peer.protocol import AssetDescription, PeerRequest, encode_request
from tests.support.certificate_authority import CertificateAuthority
from tests.support.fleet.tier_edges import PATIENT, TierEdges, patient_but_with, tier_edges
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause

MIB = 1 << 20


@dataclass
class Site:
    """A fleet, its origin, and the owners of objects."""

    fleet: TierEdges
    origin: CountingOrigin

    def owned_by(self, owner: str, folder: str, size: int) -> str:
        """The name of a new object whose first extent this parent owns."""
        members = [
            Member(name, peer_address=self.fleet.addresses[name]) for name in self.fleet.parents
        ]
        identity = join_key("http", self.origin.url, "", "", "")
        for number in range(1000):
            name = f"{folder}/{number}"
            if ranks(join_key(identity, name), 0, members)[0].name == owner:
                self.origin.sizes[name] = size
                return name
        raise LookupError(owner)

    def bypasses(self, edge: str) -> float:
        return self.fleet.edges[edge].metric("streamedge_origin_bypasses_total")


@contextlib.contextmanager
def serving(folder: Path, prelude: str) -> Iterator[Site]:
    names = ("fra-1", "ams-1", "lon-1")
    with (
        counting_origin({}) as origin,
        tier_edges(folder, origin.url, names=names, prelude=prelude) as fleet,
    ):
        yield Site(fleet, origin)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path, PATIENT) as site:
        yield site


@pytest.fixture
def site_that_leaves_out_fra(tmp_path: Path) -> Iterator[Site]:
    """Its edges wait for each other, but not for fra-1."""
    with serving(tmp_path, patient_but_with("fra-1")) as site:
        yield site


def get(edge: EdgeProcess, path: str, fields: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", edge.http_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", f"/{path}", headers=fields or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def read_counting(edge: EdgeProcess, path: str, received: list[int], place: int) -> bytes:
    """The body; ``received[place]`` is how much of it has come."""
    with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
        pieces = []
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            received[place] += len(piece)
        return b"".join(pieces)


def test_readers_get_the_right_bytes_when_an_owner_is_killed(site: Site) -> None:
    size = 30 * MIB
    names = [site.owned_by("fra-1", f"killed/{n}", size) for n in range(3)]
    readers = [site.fleet.edges[name] for name in ("ams-1", "lon-1")]
    jobs = [(edge, name) for name in names for edge in readers for _ in range(3)]
    site.origin.stop_after = len(names) * size * 3 // 10
    received = [0] * len(jobs)
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        bodies = [pool.submit(read_counting, *job, received, n) for n, job in enumerate(jobs)]
        site.origin.await_stop()
        while sum(received) < len(readers) * 3 * site.origin.total_bytes * 9 // 10:
            pause()  # until nearly all of it is at the viewers
        site.fleet.kill("fra-1")
        site.origin.go_on()
        for (_edge, name), body in zip(jobs, bodies, strict=True):
            assert body.result() == site.origin.bytes_of(name)
    assert site.origin.total_bytes <= 1.15 * len(names) * size


def test_readers_get_the_right_bytes_when_an_owner_stops_in_the_middle(tmp_path: Path) -> None:
    """It is alive and sends nothing more; its connections stay open."""
    size = 30 * MIB
    with (
        counting_origin({}) as origin,
        tier_edges(
            tmp_path,
            "",
            names=("fra-1", "ams-1", "lon-1"),
            origin_lines=f'type = "http"\nurl = "{origin.url}"\nread_timeout = "10s"',
        ) as fleet,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        name = Site(fleet, origin).owned_by("fra-1", "stops", size)
        readers = [fleet.edges[edge] for edge in ("ams-1", "lon-1")]
        origin.stop_after = size * 3 // 10
        received = [0] * len(readers)
        bodies = [
            pool.submit(read_counting, edge, name, received, n) for n, edge in enumerate(readers)
        ]
        origin.await_stop()
        while sum(received) < len(readers) * origin.total_bytes * 9 // 10:
            pause()
        os.killpg(fleet.edges["fra-1"].pid, signal.SIGSTOP)
        try:
            origin.go_on()
            for body in bodies:
                assert body.result() == origin.bytes_of(name)
        finally:
            os.killpg(fleet.edges["fra-1"].pid, signal.SIGCONT)


def test_stopped_owner_is_passed_over_and_no_request_waits_for_it_for_long(
    site_that_leaves_out_fra: Site,
) -> None:
    site = site_that_leaves_out_fra
    names = [site.owned_by("fra-1", f"stopped/{n}", 100_000) for n in range(4)]
    os.killpg(site.fleet.edges["fra-1"].pid, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda name: get(site.fleet.edges["lon-1"], name), names)
            for name, answer in zip(names, answers, strict=True):
                assert answer == (200, site.origin.bytes_of(name))
        site.fleet.edges["lon-1"].await_log("peer_down")
    finally:
        os.killpg(site.fleet.edges["fra-1"].pid, signal.SIGCONT)
    assert site.origin.total_bytes == 400_000


def test_parent_that_is_behind_refuses_and_the_next_one_answers(site: Site) -> None:
    name = site.owned_by("fra-1", "behind", 50_000)
    site.fleet.change_view("lon-1", applied=1042)
    site.fleet.change_view("ams-1", applied=1042)
    assert get(site.fleet.edges["lon-1"], name) == (200, site.origin.bytes_of(name))
    lines = site.fleet.edges["fra-1"].await_log("peer_response")
    assert {line["reason"] for line in lines} == {"behind"}
    assert site.origin.total_bytes == 50_000


def test_parents_with_different_views_never_wait_for_each_other(site: Site) -> None:
    """Each of two parents believes that the other one owns everything."""
    fra, ams = (site.fleet.addresses[name] for name in ("fra-1", "ams-1"))
    site.fleet.change_view("fra-1", members=[["ams-1", ams], ["lon-1", "127.0.0.1:1"]])
    site.fleet.change_view("ams-1", members=[["fra-1", fra], ["lon-1", "127.0.0.1:1"]])
    for number in range(6):
        name = f"views/{number}"
        site.origin.sizes[name] = 20_000
        for edge in site.fleet.edges.values():
            assert get(edge, name) == (200, site.origin.bytes_of(name))
    reasons = {
        str(line["reason"])
        for edge in ("fra-1", "ams-1")
        for line in site.fleet.edges[edge].await_log("peer_response")
        if line["status"] >= 400
    }
    assert reasons
    assert all(reason.startswith(("rank", "not a member")) for reason in reasons)


@pytest.mark.parametrize(
    ("state", "reason"), [("joining", "joining"), ("lost", "lost"), ("draining", "not cached")]
)
def test_parent_that_cannot_answer_is_passed_over(site: Site, state: str, reason: str) -> None:
    name = site.owned_by("fra-1", state, 30_000)
    site.fleet.change_view("fra-1", state=state)
    assert get(site.fleet.edges["lon-1"], name) == (200, site.origin.bytes_of(name))
    lines = site.fleet.edges["fra-1"].await_log("peer_response", 2)
    assert lines[-1]["reason"] == reason
    assert site.origin.total_bytes == 30_000


def test_draining_parent_sends_what_it_has_cached(site: Site) -> None:
    name = site.owned_by("fra-1", "cached", 30_000)
    get(site.fleet.edges["fra-1"], name)
    site.fleet.change_view("fra-1", state="draining")
    assert get(site.fleet.edges["lon-1"], name) == (200, site.origin.bytes_of(name))
    assert site.origin.total_bytes == 30_000


@pytest.mark.parametrize("change", [{"state": "lost"}, {"unplaced": True}])
def test_edge_that_others_cannot_follow_requests_from_the_origin(
    site: Site, change: dict[str, object]
) -> None:
    name = site.owned_by("fra-1", "alone", 30_000)
    site.fleet.change_view("lon-1", **change)
    assert get(site.fleet.edges["lon-1"], name) == (200, site.origin.bytes_of(name))
    site.fleet.edges["lon-1"].await_metric("streamedge_origin_bypasses_total", lambda n: n == 1)
    assert not [
        line for line in site.fleet.edges["fra-1"].log("peer_response") if line["name"] == name
    ]


def test_new_owner_takes_what_the_previous_one_has_cached(tmp_path: Path) -> None:
    names = ("fra-1", "ams-1", "lon-1")
    with (
        counting_origin({}) as origin,
        tier_edges(tmp_path, origin.url, names=names, prelude=PATIENT) as fleet,
    ):
        site = Site(fleet, origin)
        objects = [site.owned_by("ams-1", f"moved/{n}", 40_000) for n in range(5)]
        only_fra = [["fra-1", fleet.addresses["fra-1"]], ["lon-1", fleet.addresses["lon-1"]]]
        all_members = fleet.views["lon-1"]["members"]
        for name in names:
            fleet.change_view(name, members=only_fra)
        for name in objects:
            get(fleet.edges["lon-1"], name)
        for name in names:
            fleet.change_view(name, members=all_members, previous=only_fra)
        for name in objects:
            assert get(fleet.edges["ams-1"], name) == (200, origin.bytes_of(name))
        assert origin.total_bytes == 5 * 40_000


def test_stale_response_of_a_parent_is_passed_on_and_not_stored(site: Site) -> None:
    name = site.owned_by("fra-1", "short-lived", 9000)
    body = site.origin.bytes_of(name)
    assert get(site.fleet.edges["fra-1"], name) == (200, body)
    site.origin.is_failing = True
    while True:  # until the parent's copy is stale
        pause()
        get(site.fleet.edges["fra-1"], name)
        if site.origin.count("GET", f"/{name}") > 1:
            break
    assert get(site.fleet.edges["lon-1"], name) == (200, body)
    site.fleet.edges["fra-1"].await_metric(
        "streamedge_peer_requests_total", lambda count: count >= 1, 'result="stale",role="parent"'
    )
    site.origin.is_failing = False
    site.origin.editions[name] = 1
    assert get(site.fleet.edges["lon-1"], name) == (200, site.origin.bytes_of(name))


def test_failure_of_the_origin_is_reported_and_not_tried_again_by_each_edge(site: Site) -> None:
    name = site.owned_by("fra-1", "failing", 1000)
    site.origin.is_failing = True
    status, _body = get(site.fleet.edges["lon-1"], name)
    assert status == 503
    assert site.origin.count("GET", f"/{name}") == 1


@pytest.mark.parametrize("has_certificate", [False, True])
def test_only_edges_of_the_fleet_are_served(
    site: Site, tmp_path: Path, has_certificate: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if has_certificate:
        (tmp_path / "strangers").mkdir()
        stranger = CertificateAuthority(tmp_path / "strangers").issue("lon-1")
        context.load_cert_chain(stranger.certificate, stranger.key)
    address = site.fleet.addresses["fra-1"].rpartition(":")
    with (
        socket.create_connection((address[0], int(address[2])), 10) as raw,
        context.wrap_socket(raw) as tls,
    ):
        tls.sendall(b"GET /streamedge/peer HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            tls.recv(100)  # TLS 1.3: the alert comes after the client's part of the handshake
    site.fleet.edges["fra-1"].await_log("peer_handshake_failed")


def test_member_with_the_name_of_another_one_in_its_request_is_refused(site: Site) -> None:
    """The certificate's name counts, not the one in the request."""
    pair = site.fleet.certificates["lon-1"]
    context = ssl.create_default_context(cafile=str(site.fleet.authority.root))
    context.check_hostname = False
    context.load_cert_chain(pair.certificate, pair.key)
    host, _, port = site.fleet.addresses["fra-1"].rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE_S, context=context)
    for edge, status in (("ams-1", 403), ("lon-1", 409)):
        asset = AssetDescription("x", "main", "1:x", "a", (0.0, 1.0, 2.0, 3.0, False, ()))
        fields = {
            "streamedge-peer": f"edge={edge}; rank=0; need=0-0",
            "streamedge-request": encode_request(PeerRequest(asset)) or "",
        }
        connection.request("GET", "/streamedge/peer", headers=fields)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()
