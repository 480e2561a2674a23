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

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_view import read_fleet_view
from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.fleet.static_view import PRELUDE
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

ROOT = Path(__file__).parents[3]
NO_ENGINE = "redis://127.0.0.1:1/0"


@dataclass
class TierEdges:
    """``edges`` by name; the first ``parents`` of them are the tier.

    ``root``: the certificate of the fleet's authority.
    """

    edges: dict[str, EdgeProcess]
    addresses: dict[str, str]
    parents: Sequence[str]
    folder: Path
    root: Path
    certificates: dict[str, Pair] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)

    def kill(self, name: str) -> None:
        """Kills all processes of an edge at once."""
        os.killpg(self.edges[name].pid, signal.SIGKILL)
        self.edges[name].process.wait(10)

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
    distributions: str | None = None,
    more: str = "",
    limits: str = "",
    origin_keys: str = "",
    workers: int = 1,
    engine: str = "",
) -> Iterator[TierEdges]:
    """Runs the edges. ``origin``: the URL of the origin ``main``.

    ``engine``: the URL of a real one, through which the edges know each other; then no view can be
    changed. Without it they know what the test says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = CertificateAuthority(folder)
    ports = free_ports(len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    tier = names[:parents]
    members = [[name, addresses[name]] for name in names]
    fleet = TierEdges({}, addresses, tier, folder, authority.root)
    with contextlib.ExitStack() as stack:
        for name in names:
            pair = fleet.certificates[name] = authority.issue(name)
            fleet.views[name] = {"name": name, "members": members}
            view = folder / f"{name}.view"
            _write(view, fleet.views[name])
            listed = ", ".join(f'"{one}"' for one in tier)
            config = (
                f'[fleet]\nengine = "{engine or NO_ENGINE}"\nca = "{authority.root}"\n'
                f'when_lost = "{"validate" if engine else "serve"}"\n'
                f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
                f"[fleet.tiers]\neu = [{listed}]\n"
                f'[origins.main]\ntype = "http"\nurl = "{origin}"\ntier = "eu"\n'
                f"{origin_keys}\n{more}"
            )
            fleet.edges[name] = stack.enter_context(
                run_edge(
                    folder / name,
                    config,
                    workers=workers,
                    edge=f'name = "{name}"',
                    listen=f'fleet = "{addresses[name]}"',
                    limits=limits,
                    distributions=distributions,
                    prelude="" if engine else PRELUDE.format(root=str(ROOT), path=str(view)),
                )
            )
        if engine:
            for edge in fleet.edges.values():
                _await_members(edge, len(names))
        yield fleet


def _await_members(edge: EdgeProcess, count: int) -> None:
    """Waits until an edge has caught up with the log, and knows all members."""
    edge.await_log("fleet_caught_up")
    deadline_s = time.monotonic() + 20.0
    database = ControlDatabase(edge.cache)
    while len(read_fleet_view(database).members) < count:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{edge} knows {read_fleet_view(database).members}")
        pause()
    database.close()


def _write(path: Path, view: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(view))
    new.replace(path)
