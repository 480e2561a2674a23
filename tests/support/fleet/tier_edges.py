"""Real edges with one tier over one origin; the test decides what they know of each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.fleet.static_view import PRELUDE
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

ROOT = Path(__file__).parents[3]
NO_ENGINE = "redis://127.0.0.1:1/0"

# An edge that is only slow is not left out: the origin's bytes can be counted on any machine.
PATIENT = f"""
import functools
from streamedge.build import peers
from streamedge.delivery.peer import handler, server
from streamedge.origin.peer import client, tier
peers.PeerClients = functools.partial(client.PeerClients, silence_max_s={PATIENCE_S})
client.CONNECT_TIMEOUT_S = tier.CACHED_SILENCE_S = handler.BEHIND_WAIT_S = {PATIENCE_S}
server.HANDSHAKE_S = {PATIENCE_S}
"""


def patient_but_with(name: str) -> str:
    """As ``PATIENT``, but to connect to one edge, which the test stops, takes at most a second."""
    return f"""{PATIENT}
Client = client.Client
def client_of(**options):
    if options["server_name"] == {name!r}:
        options["connect_timeout_s"] = 1.0
    return Client(**options)
client.Client = client_of
"""


@dataclass
class TierEdges:
    """``edges`` by name; ``parents`` are the tier. ``root``: the fleet's certificate authority.

    ``config``, ``prelude`` and ``options`` are those of all edges.
    """

    folder: Path
    addresses: dict[str, str]
    parents: Sequence[str]
    engine: str
    config: str
    prelude: str
    options: dict[str, Any]
    authority: CertificateAuthority
    stack: contextlib.ExitStack
    edges: dict[str, EdgeProcess] = field(default_factory=dict)
    certificates: dict[str, Pair] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Starts an edge; with an engine, returns when all running edges know each other."""
        pair = self.certificates[name] = self.authority.issue(name)
        all_members = [[one, address] for one, address in self.addresses.items()]
        self.views[name] = {"name": name, "members": all_members}
        view = self.folder / f"{name}.view"
        _write(view, self.views[name])
        fleet = (
            f'[fleet]\nengine = "{self.engine or NO_ENGINE}"\nca = "{self.authority.root}"\n'
            f'when_lost = "{"validate" if self.engine else "serve"}"\n'
            f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
        )
        self.edges[name] = self.stack.enter_context(
            run_edge(
                self.folder / name,
                fleet + self.config,
                edge=f'name = "{name}"',
                listen=f'fleet = "{self.addresses[name]}"',
                prelude=self.prelude
                + ("" if self.engine else PRELUDE.format(root=str(ROOT), path=str(view))),
                **self.options,
            )
        )

    def await_members(self) -> None:
        """Waits until every running edge knows all of them, and is up."""
        deadline_s = time.monotonic() + PATIENCE_S
        for edge in self.edges.values():
            while _states(edge) != dict.fromkeys(self.edges, "up"):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{edge} knows {_states(edge)}")
                pause()

    def kill(self, name: str) -> None:
        """Kills all processes of an edge at once."""
        os.killpg(self.edges[name].pid, signal.SIGKILL)
        self.edges[name].process.wait(PATIENCE_S)

    def change_view(self, name: str, **values: Any) -> None:
        """What an edge knows from its next look on."""
        self.views[name] |= values
        _write(self.folder / f"{name}.view", self.views[name])


@contextlib.contextmanager
def tier_edges(
    folder: Path,
    origin: str,
    *,
    names: Sequence[str] = ("fra-1", "ams-1", "par-1", "lon-1"),
    parents: int = 2,
    late: Sequence[str] = (),
    engine: str = "",
    origin_lines: str = "",
    prelude: str = "",
    **options: Any,
) -> Iterator[TierEdges]:
    """Runs the edges, but those in ``late``.

    ``origin``: the URL of the origin ``main``, or ``origin_lines`` describe it.

    ``engine``: the URL of a real one, through which the edges know each other; then no view can be
    changed. Without it they know what the test says. ``options`` as for ``run_edge``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    listed = ", ".join(f'"{one}"' for one in names[:parents])
    timeouts = f'connect_timeout = "{PATIENCE_S:.0f}s"\nread_timeout = "{PATIENCE_S:.0f}s"'
    described = origin_lines or f'type = "http"\nurl = "{origin}"\n{timeouts}'
    config = f'[fleet.tiers]\neu = [{listed}]\n[origins.main]\n{described}\ntier = "eu"\n'
    with contextlib.ExitStack() as stack:
        fleet = TierEdges(
            folder,
            addresses,
            names[:parents],
            engine,
            config,
            prelude,
            options,
            CertificateAuthority(folder),
            stack,
        )
        for name in names:
            if name not in late:
                fleet.start(name)
        if engine:
            fleet.await_members()
        yield fleet


def _states(edge: EdgeProcess) -> dict[str, str]:
    """The edges' states, by name, as one of them sees them."""
    document = json.loads(edge.admin("/fleet"))
    return {one["name"]: one["state"] for one in document["edges"]}


def _write(path: Path, view: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(view))
    new.replace(path)
