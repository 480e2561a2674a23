"""Journey: docs/guides/fleet.md as an operator follows it, with a real Redis and a real PowerDNS.

The test writes the guide's configs and runs its commands in their order. Only addresses, ports and
paths are replaced: each edge has a loopback address of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.dns.powerdns_server import PowerDnsServer, run_powerdns
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.fleet.places import BOSTON, FRANKFURT, PARIS
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause
from tests.support.process.ports import free_ports

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "fleet.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(ams-1|nyc-1) (?:is )?at\s+`(\[[^`]*\])`")
NOT_REPLACED: Mapping[str, str] = MappingProxyType({})
SIZE_BYTES = 3_000_000
ADDRESSES = {"fra-1": "127.0.1.10", "ams-1": "127.0.1.20", "nyc-1": "127.0.1.30"}
IN_PARIS, IN_BOSTON = "10.1.7.0/24", "10.3.7.0/24"
PLACES = {"10.1.0.0/16": PARIS, "10.3.0.0/16": BOSTON, "10.2.0.0/16": FRANKFURT}


def blocks(language: str) -> list[str]:
    """The guide's code blocks in a language, in order."""
    return [text for name, text in BLOCK.findall(GUIDE.read_text()) if name == language]


def conf(number: int) -> dict[str, str]:
    """The settings of a "conf" block: Redis's (0) or PowerDNS's (1)."""
    lines = blocks("conf")[number].splitlines()
    return dict(re.split(r"[ =]", line, maxsplit=1) for line in lines)


@dataclass
class Operator:
    """Follows the guide; ``folders`` of the edges by name."""

    folders: dict[str, Path]
    port: int  # of HTTP, on each edge's own address
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(
        self, number: int, name: str = "fra-1", replaced: Mapping[str, str] = NOT_REPLACED
    ) -> str:
        """Runs the commands of a "sh" block on an edge; returns their output.

        Texts of the commands are replaced by those of this machine.
        """
        commands = blocks("sh")[number]
        for text, value in replaced.items():
            commands = commands.replace(text, value)
        return "".join(shell(line, self.folders[name]) for line in commands.splitlines())

    def url(self, name: str, path: str) -> urllib.request.Request:
        return urllib.request.Request(
            f"http://{ADDRESSES[name]}:{self.port}/{path}", headers={"Host": "cdn.example.com"}
        )

    def get(self, name: str, path: str) -> bytes:
        with urllib.request.urlopen(self.url(name, path), timeout=PATIENCE_S) as response:
            body: bytes = response.read()
            return body

    def start(self, name: str) -> None:
        with (self.folders[name] / "stderr").open("ab") as stderr:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "streamedge", "serve"],
                cwd=self.folders[name],
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Ends all processes of an edge as a power failure would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, 9)
        process.wait(PATIENCE_S)


def shell(line: str, folder: Path) -> str:
    """Runs a command as an operator would; it must succeed."""
    scripts = Path(sys.executable).parent
    completed = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=folder,
        env=os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert completed.returncode == 0, f"{line}\n{completed.stdout}{completed.stderr}"
    return completed.stdout


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        pause()


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with counting_origin({f"film-{number}.mp4": SIZE_BYTES for number in range(4)}) as running:
        yield running


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Redis with the guide's settings."""
    settings = conf(0)
    del settings["port"]
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with run_redis(tmp_path / "redis", *options) as server:
        yield server


@pytest.fixture
def powerdns(tmp_path: Path) -> Iterator[PowerDnsServer]:
    """PowerDNS with the guide's settings, but for paths, the key and ports."""
    own = re.compile("database|zones-file|key|port|interval")
    settings = {
        name.replace("-", "_"): value for name, value in conf(1).items() if not own.search(name)
    }
    with run_powerdns(tmp_path / "powerdns", PLACES, **settings) as server:
        yield server


@pytest.fixture
def operator(
    tmp_path: Path, redis_server: RedisServer, origin: CountingOrigin
) -> Iterator[Operator]:
    """The three edges with their configs and certificates; not started."""
    port, rtmp_port, peer_port = free_ports(3)
    places = dict(PLACE.findall(GUIDE.read_text()))
    folders = {name: tmp_path / name for name in ADDRESSES}
    for name, address in ADDRESSES.items():
        folders[name].mkdir()
        (admin_port,) = free_ports(1)
        config = blocks("toml")[0].replace("fra-1.", f"{name}.")
        config = config.replace('name = "fra-1"', f'name = "{name}"\ncache = "cache"\nworkers = 1')
        config = config.replace("[50.11, 8.68]", places.get(name, "[50.11, 8.68]"))
        config = config.replace('"192.0.2.10"', f'"{address}"')
        config = config.replace('fleet = "192.0.2.10:7443"', f'fleet = "{address}:{peer_port}"')
        config = config.replace('":80"', f'"{address}:{port}"')
        config = config.replace('":1935"', f'"{address}:{rtmp_port}"')
        config = config.replace("[listen]", f'[listen]\nadmin = "127.0.0.1:{admin_port}"')
        config = config.replace("redis://192.0.2.1:6379/0", redis_server.url)
        config = config.replace("http://origin.example.org", origin.url)
        (folders[name] / "config.toml").write_text(config)
    operator = Operator(folders, port)
    try:
        yield operator
    finally:
        for name in list(operator.processes):
            with contextlib.suppress(ProcessLookupError):
                operator.kill(name)


def test_guide_takes_an_operator_from_one_edge_to_three(
    operator: Operator, powerdns: PowerDnsServer, origin: CountingOrigin
) -> None:
    operator.run(0)  # the certificates
    for name in ("ams-1", "nyc-1"):
        for file in ("fleet-ca.pem", f"{name}.pem", f"{name}.key"):
            shutil.copy(operator.folders["fra-1"] / file, operator.folders[name])

    for name in ADDRESSES:
        operator.run(1, name)  # streamedge check
        operator.start(name)
    until(lambda: _states(operator) == dict.fromkeys(ADDRESSES, "up"))
    operator.run(3)  # fleet check

    film = origin.bytes_of("film-0.mp4")
    for name in ADDRESSES:
        assert operator.get(name, "film-0.mp4") == film
    assert origin.total_bytes <= 1.02 * SIZE_BYTES

    origin.editions["film-0.mp4"] = 1
    milliseconds = operator.run(4)  # invalidate --wait
    assert all(name in milliseconds for name in ADDRESSES), milliseconds
    for name in ADDRESSES:
        assert operator.get(name, "film-0.mp4") == origin.bytes_of("film-0.mp4") != film
    owners = operator.run(5)  # fleet owner
    assert "fra-1" in owners
    assert "ams-1" in owners

    operator.run(
        6,
        replaced={
            "http://127.0.0.1:8081": f"{powerdns.url} --dns {powerdns.address}",
            "powerdns-key": str(powerdns.key_file),
        },
    )

    def nearest(subnet: str) -> list[str]:
        addresses = {address: name for name, address in ADDRESSES.items()}
        return [addresses[one] for one in powerdns.dig("cdn.example.com", subnet=subnet)]

    until(lambda: (nearest(IN_PARIS), nearest(IN_BOSTON)) == (["ams-1"], ["nyc-1"]))

    operator.kill("nyc-1")
    until(lambda: nearest(IN_BOSTON) in (["fra-1"], ["ams-1"]))
    until(lambda: _states(operator).get("nyc-1") == "gone")

    operator.run(7)  # drain ams-1
    until(lambda: nearest(IN_PARIS) == ["fra-1"])
    operator.run(8)  # undrain ams-1
    until(lambda: nearest(IN_PARIS) == ["ams-1"])


def _states(operator: Operator) -> dict[str, str]:
    """The states in the table of ``streamedge fleet``."""
    try:
        table = operator.run(2)
    except AssertionError:  # the edge is starting
        return {}
    states = re.findall(r"\b(fra-1|ams-1|nyc-1)\b.*?\b(joining|up|lost|draining|gone)\b", table)
    return dict(states)
