"""The rate that checkBandwidth gives a client, over real links of a known rate.

Edge and client run in a network namespace of their own, whose loopback interface has a token bucket
filter. A plain TCP transfer through the same link shows what is possible.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

from bench.loads import rtmp_wire as wire
from bench.loads.rtmp_client import Viewer
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.peers import APPLICATION
from bench.servers.server import LOOPBACK, BenchError, Failure, Value

MEGABITS = (1, 5, 20)
TCP = "plain TCP"
TOLERANCE_PERCENT = 10.0
LIMIT_S = 60.0
MTU_BYTES = 1500
BURST_BYTES = 8 * MTU_BYTES
TRANSFER_S, TRANSFER_BEGIN_S = 3.0, 1.0


def rates(options: Options) -> list[Figure]:
    """The rate of checkBandwidth for each link, and how far it is from that of plain TCP."""
    figures = []
    for megabits in MEGABITS:
        kbit_per_s = _in_namespace(megabits)
        figures.append(Figure(f"{megabits} Mb/s: measured", "kbit/s", kbit_per_s))
        figures.append(
            Figure(
                f"{megabits} Mb/s: difference to plain TCP",
                "%",
                _difference(kbit_per_s),
                Target(TOLERANCE_PERCENT),
            )
        )
    return figures


def _difference(kbit_per_s: Mapping[str, Value]) -> dict[str, Value]:
    ours, tcp = kbit_per_s[STREAMEDGE], kbit_per_s.get(TCP)
    if isinstance(ours, float) and isinstance(tcp, float):
        return {STREAMEDGE: 100 * abs(ours / tcp - 1)}
    return {STREAMEDGE: ours}


def _in_namespace(megabits: int) -> dict[str, Value]:
    """Measures in a process with a network of its own; needs root or user namespaces."""
    setup = (
        f"ip link set lo mtu {MTU_BYTES} up && tc qdisc add dev lo root"
        f' tbf rate {megabits}mbit burst {BURST_BYTES} latency 200ms && exec "$@"'
    )
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", setup, "sh"]
    try:
        completed = subprocess.run(
            [*command, sys.executable, "-m", __name__],
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {STREAMEDGE: Failure(str(error))}
    if completed.returncode:
        return {STREAMEDGE: Failure(completed.stderr.strip().rpartition("\n")[2])}
    values: dict[str, Value] = json.loads(completed.stdout.splitlines()[-1])
    return values


def _measure() -> dict[str, float]:
    with streamedge(1, core=None) as server:
        return {STREAMEDGE: _check_bandwidth(server.rtmp_port), TCP: _transfer()}


def _check_bandwidth(port: int) -> float:
    """The kbit/s in the edge's onBWDone."""
    with socket.create_connection((LOOPBACK, port), LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        viewer = Viewer(connection)
        viewer.send(wire.hello())
        response = viewer.read_bytes(1 + 2 * wire.HANDSHAKE_BYTES)
        viewer.send(response[1 : 1 + wire.HANDSHAKE_BYTES] + wire.connect(APPLICATION, port))
        for message in viewer.messages(until_s=time.monotonic() + LIMIT_S):
            if message.kind != wire.COMMAND:
                continue
            name, transaction, *values = wire.read_amf(message.body)
            if name == "onBWDone" and len(values) > 1 and isinstance(values[1], float):
                return values[1]
            if name == "_result":
                _call(viewer, "checkBandwidth", 0.0)
            elif name == "onBWCheck" and isinstance(transaction, float):
                _call(viewer, "_result", transaction)
    raise BenchError("no onBWDone")


def _call(viewer: Viewer, name: str, transaction: float) -> None:
    viewer.send(wire.message(wire.COMMAND, wire.amf(name, transaction, None), chunk_stream=3))


def _transfer() -> float:
    """The kbit/s of a plain TCP connection, once its window is open."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def send() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    while True:
                        connection.sendall(bytes(65536))
                except OSError:
                    return

        threading.Thread(target=send, daemon=True).start()
        with socket.create_connection(listener.getsockname(), LIMIT_S) as connection:
            began_s = time.monotonic()
            first_s = last_s = began_s
            size_bytes = 0
            while last_s - began_s < TRANSFER_BEGIN_S + TRANSFER_S:
                received = len(connection.recv(1 << 16))
                last_s = time.monotonic()
                if last_s - began_s < TRANSFER_BEGIN_S:
                    first_s = last_s
                else:
                    size_bytes += received
    return size_bytes * 8 / (last_s - first_s) / 1000


if __name__ == "__main__":
    print(json.dumps(_measure()))
