"""Certificates on both sides of a connection to ``listen.fleet``, and the names in them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from streamedge.access.geo import CountryDatabase
from streamedge.build.parts import ServerParts
from streamedge.build.peers import Peers
from streamedge.config.schema.config import Config
from streamedge.fleet.members import Member, Role
from streamedge.keys import join_key
from streamedge.ops.background import Services
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin.peer.client import PeerClients, PeerRefusal, PeerResponse
from streamedge.origin.peer.protocol import (
    AssetDescription,
    PeerHeader,
    PeerRequest,
    encode_request,
)
from streamedge.origin.peer.tls import FleetFiles, FleetTls
from streamedge.process.worker_peers import WorkerPeers
from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.certificate_authority import replace as replace_file
from tests.support.event_loop import until
from tests.support.fleet.peer_fleet import IDENTITY, PeerFleet, run_peer_fleet
from tests.support.patience import PATIENCE_S

RULES = (0.0, 1.0, 2.0, 3.0, False, ())
NOT_A_MEMBER = "not a member of the fleet with this certificate"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[PeerFleet]:
    async with run_peer_fleet(tmp_path) as running:
        yield running


def client_context(root: Path, pair: Pair | None) -> ssl.SSLContext:
    """The context of an edge with these files; without a pair it shows no certificate."""
    if pair is not None:
        return FleetTls(FleetFiles(root, pair.certificate, pair.key)).client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(root)
    return context


def peer_clients(folder: Path, context: ssl.SSLContext, name: str) -> PeerClients:
    """The connections of an edge ``name`` to others."""
    log = open_log(str(folder / "client.log"), "worker-0")
    return PeerClients(
        name, context, log, Counts(), read_timeout_s=PATIENCE_S, silence_max_s=PATIENCE_S
    )


async def request(
    folder: Path, context: ssl.SSLContext, member: Member, name: str
) -> PeerResponse | PeerRefusal:
    """What the edge ``name`` gets from another one for an object of the origin."""
    clients = peer_clients(folder, context, name)
    try:
        return await send(clients, member, name)
    finally:
        await clients.close()


async def send(clients: PeerClients, member: Member, name: str) -> PeerResponse | PeerRefusal:
    """As ``request``, over the connections of ``clients``."""
    asset = AssetDescription(IDENTITY, "main", join_key(IDENTITY, "film"), "film", RULES)
    encoded = encode_request(PeerRequest(asset))
    assert encoded is not None
    outcome = await clients.send(
        member, "GET", PeerHeader(name, 0, 0, is_cached_only=True), encoded, [], lambda at: at
    )
    if isinstance(outcome, PeerResponse):
        outcome.close()
    return outcome


@pytest.mark.parametrize("case", ["none", "another authority", "expired"])
async def test_client_without_a_valid_certificate_of_the_fleet_is_refused(
    fleet: PeerFleet, tmp_path: Path, case: str
) -> None:
    (tmp_path / "strangers").mkdir()
    pairs = {
        "none": None,
        "another authority": CertificateAuthority(tmp_path / "strangers").issue("lon-1"),
        "expired": fleet.authority.issue("lon-1", has_expired=True),
    }
    parent = fleet["fra-1"]
    context = client_context(fleet.authority.root, pairs[case])
    outcome = await request(tmp_path, context, parent.view.members["fra-1"], "lon-1")
    assert isinstance(outcome, PeerRefusal)
    await until(lambda: parent.counts.gathered(Counter.ERRORS, "peer_handshake") == 1)
    assert not parent.counts.gathered(Counter.PEER_REQUESTS, "parent\trefused")


@pytest.mark.parametrize(
    ("certified", "claimed", "reason"),
    [
        ("lon-1", "lon-1", "not cached"),  # it is served
        ("lon-1", "ams-1", NOT_A_MEMBER),
        ("rom-1", "rom-1", NOT_A_MEMBER),
        ("rom-1", "lon-1", NOT_A_MEMBER),
        ("old-1", "old-1", NOT_A_MEMBER),  # it was removed
    ],
)
async def test_member_is_known_by_its_certificate(
    fleet: PeerFleet, tmp_path: Path, certified: str, claimed: str, reason: str
) -> None:
    view = fleet["fra-1"].view
    removed = replace(view.members["lon-1"], name="old-1", role=Role.REMOVED)
    view.members = {**view.members, "old-1": removed}
    context = client_context(fleet.authority.root, fleet.authority.issue(certified))
    outcome = await request(tmp_path, context, view.members["fra-1"], claimed)
    assert outcome == PeerRefusal(reason)


@asynccontextmanager
async def run_impostor(pair: Pair) -> AsyncIterator[tuple[Member, bytearray]]:
    """A server at the address of fra-1 with another certificate, and what it receives."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            received.extend(data)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Member("fra-1", peer_address=f"127.0.0.1:{port}"), received


@pytest.mark.parametrize("case", ["another authority", "another name", "expired"])
async def test_server_without_the_certificate_of_the_edge_gets_no_request(
    fleet: PeerFleet, tmp_path: Path, case: str
) -> None:
    (tmp_path / "strangers").mkdir()
    pairs = {
        "another authority": CertificateAuthority(tmp_path / "strangers").issue("fra-1"),
        "another name": fleet.authority.issue("ams-1"),
        "expired": fleet.authority.issue("fra-1", has_expired=True),
    }
    context = client_context(fleet.authority.root, fleet.authority.issue("lon-1"))
    async with run_impostor(pairs[case]) as (member, received):
        outcome = await request(tmp_path, context, member, "lon-1")
        assert isinstance(outcome, PeerRefusal)
        assert "certificate" in outcome.reason
        assert not received


class RunningWorker(NamedTuple):
    """The part of a worker of fra-1 in its fleet; its files trust two authorities."""

    worker: WorkerPeers
    clients: PeerClients
    member: Member
    ca: Path
    log: Log

    async def trust_only(self, authority: CertificateAuthority) -> None:
        """Removes the other authority from the file, and lets the worker look at it."""
        replace_file(self.ca, authority.root.read_bytes())
        await self.worker.reload_certificate(self.log)


@pytest.fixture
def second(tmp_path: Path) -> CertificateAuthority:
    """Another authority that the worker trusts."""
    (tmp_path / "second").mkdir()
    return CertificateAuthority(tmp_path / "second", "Second authority")


@pytest.fixture
async def running(
    fleet: PeerFleet, second: CertificateAuthority, tmp_path: Path
) -> AsyncIterator[RunningWorker]:
    pair, ca = fleet.authority.issue("fra-1"), tmp_path / "both.pem"
    ca.write_bytes(fleet.authority.root.read_bytes() + second.root.read_bytes())
    edge, log = fleet["fra-1"], open_log(str(tmp_path / "edge.log"), "worker-0")
    tls = FleetTls(FleetFiles(ca, pair.certificate, pair.key))
    clients = peer_clients(tmp_path, tls.client, "fra-1")
    worker, services = WorkerPeers(Peers(edge.fleet, clients, tls)), Services(log, edge.counts)
    parts = ServerParts({"main": edge.binding}, edge.cache, log, edge.counts, CountryDatabase(None))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    member = Member("fra-1", peer_address=f"127.0.0.1:{listener.getsockname()[1]}")
    await worker.start(Config(), parts, [listener], services)
    try:
        yield RunningWorker(worker, clients, member, ca, log)
    finally:
        await services.stop()
        await worker.drain(0.0)
        await worker.close()


async def test_client_of_an_authority_that_was_removed_is_refused(
    fleet: PeerFleet, second: CertificateAuthority, running: RunningWorker, tmp_path: Path
) -> None:
    """Also on a connection that it has."""
    root, served = fleet.authority.root, PeerRefusal("not cached")
    first, other = (
        peer_clients(tmp_path, client_context(root, authority.issue("lon-1")), "lon-1")
        for authority in (fleet.authority, second)
    )
    assert await send(first, running.member, "lon-1") == served
    assert await send(other, running.member, "lon-1") == served
    await running.trust_only(fleet.authority)
    assert await send(first, running.member, "lon-1") == served
    refusal = await send(other, running.member, "lon-1")
    assert isinstance(refusal, PeerRefusal)
    assert refusal != served
    for clients in (first, other):
        await clients.close()


async def test_server_of_an_authority_that_was_removed_gets_no_request(
    fleet: PeerFleet, second: CertificateAuthority, running: RunningWorker
) -> None:
    """Also on a connection to it that is open."""
    parent = fleet["ams-1"].view.members["ams-1"]
    assert await send(running.clients, parent, "fra-1") == PeerRefusal("not cached")
    await running.trust_only(second)
    refusal = await send(running.clients, parent, "fra-1")
    assert isinstance(refusal, PeerRefusal)
    assert "certificate" in refusal.reason
