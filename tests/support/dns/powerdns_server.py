"""A real PowerDNS server on loopback ports, with a database of its own and places of clients.

with run_powerdns(folder, {"10.1.0.0/16": (50.1, 8.7)}) as server:
    server.dig("cdn.example.com", "A", subnet="10.1.2.0/24")
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamedge.fleet.nearest import Location
from tests.support.mmdb_file import city, country, mmdb
from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

POLL_S = 0.02
CHECK_INTERVAL_S = 1
API_KEY = "a-key-for-tests"
SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")


@dataclass(frozen=True, slots=True)
class PowerDnsServer:
    """``port``: of DNS; ``url``: of the API, whose key is in ``key_file``."""

    port: int
    url: str
    key_file: Path
    folder: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def dig(self, name: str, record_type: str = "A", *, subnet: str = "") -> list[str]:
        """The addresses that a client in a network gets, in their order."""
        options = [f"+subnet={subnet}"] if subnet else []
        completed = subprocess.run(
            [
                *("dig", "@127.0.0.1", "-p", str(self.port), name, record_type),
                *("+short", "+tries=1", "+time=10", *options),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return completed.stdout.split()

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until a condition on the answers holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, (self.folder / "log").read_text()[-4000:]
            time.sleep(POLL_S)


@contextmanager
def run_powerdns(
    folder: Path, places: Mapping[str, Location], **settings: str
) -> Iterator[PowerDnsServer]:
    """Runs a server without zones. ``places`` of networks; ``settings`` in its config."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {network: country("DE") | city(*place) for network, place in places.items()}
    (folder / "cities.mmdb").write_bytes(mmdb(records, database_type="GeoLite2-City"))
    (folder / "zones.yaml").write_text("domains: []\n")
    with closing(sqlite3.connect(folder / "zones.sqlite3")) as database:
        database.executescript(SCHEMA.read_text())
    key_file = folder / "api-key"
    key_file.write_text(f"{API_KEY}\n")
    dns_port, api_port = free_ports(2)
    config = {
        "launch": "gsqlite3,geoip",
        "gsqlite3-database": f"{folder}/zones.sqlite3",
        "geoip-database-files": f"mmdb:{folder}/cities.mmdb",
        "geoip-zones-file": f"{folder}/zones.yaml",
        "enable-lua-records": "yes",
        "edns-subnet-processing": "yes",
        "lua-health-checks-interval": str(CHECK_INTERVAL_S),
        "cache-ttl": "0",
        "query-cache-ttl": "0",
        "negquery-cache-ttl": "0",
        "zone-cache-refresh-interval": "0",
        "local-address": "127.0.0.1",
        "local-port": str(dns_port),
        "api": "yes",
        "api-key": API_KEY,
        "webserver": "yes",
        "webserver-address": "127.0.0.1",
        "webserver-port": str(api_port),
        "webserver-allow-from": "127.0.0.1",
        "socket-dir": str(folder),
        "daemon": "no",
        "guardian": "no",
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    (folder / "pdns.conf").write_text("".join(f"{name}={one}\n" for name, one in config.items()))
    program = shutil.which("pdns_server", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program is not None
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [program, f"--config-dir={folder}"], stdout=output, stderr=subprocess.STDOUT
        )
    server = PowerDnsServer(dns_port, f"http://127.0.0.1:{api_port}", key_file, folder)
    try:
        _await_start(server, process)
        yield server
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def _await_start(server: PowerDnsServer, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while "Done launching threads" not in (server.folder / "log").read_text():
        assert process.poll() is None, (server.folder / "log").read_text()
        assert time.monotonic() < deadline_s, (server.folder / "log").read_text()
        time.sleep(POLL_S)
