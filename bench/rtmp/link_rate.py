"""The rate that checkBandwidth gives a client, over real links of a known rate.

The edge runs in a network namespace of its own, the client in another one. A pair of virtual
interfaces joins them; that of the edge has a token bucket filter, so the client's results do not
wait in the queue of the edge's texts. A plain TCP transfer through the same link shows what is
possible.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bench.loads import rtmp_wire as wire
from bench.loads.rtmp_client import Viewer
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.peers import APPLICATION
from bench.servers.server import BenchError, Failure, Value, free_port

MEGABITS = (1, 5, 20)
TCP = "plain TCP"
TOLERANCE_PERCENT = 10.0
LIMIT_S = 60.0
MTU_BYTES = 1500
BURST_BYTES = 8 * MTU_BYTES
EDGE, CLIENT = "10.0.0.1", "10.0.0.2"
CLONE_NEWNET = 0x40000000  # unshare(2)
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
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", __name__]
    try:
        completed = subprocess.run(
            [*command, str(megabits)],
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


def _measure(megabits: int) -> dict[str, float]:
    """Measures with the client in a thread that has a network of its own."""
    port = free_port()
    with ThreadPoolExecutor(1, initializer=_enter_client_network) as client:
        client.submit(int).result()
        for command in (
            "link set lo up",
            f"address add {EDGE}/24 dev edge",
            f"link set edge mtu {MTU_BYTES} up",
        ):
            _run("ip", command)
        bucket = f"rate {megabits}mbit burst {BURST_BYTES} latency 200ms"
        _run("tc", f"qdisc add dev edge root tbf {bucket}")
        with streamedge(1, core=None, listen=f'mixed = ["{EDGE}:{port}"]'):
            kbit_per_s = client.submit(_check_bandwidth, port).result()
        with socket.create_server((EDGE, 0)) as listener:
            threading.Thread(target=_send, args=[listener], daemon=True).start()
            transfer = client.submit(_transfer, listener.getsockname()[1])
            return {STREAMEDGE: kbit_per_s, TCP: transfer.result()}


def _enter_client_network() -> None:
    """Moves this thread to a new network, with a link to that of the process."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise BenchError(f"unshare: {os.strerror(ctypes.get_errno())}")
    _run("ip", f"link add client type veth peer name edge netns {os.getpid()}")
    _run("ip", f"address add {CLIENT}/24 dev client")
    _run("ip", f"link set client mtu {MTU_BYTES} up")


def _run(program: str, arguments: str) -> None:
    subprocess.run([program, *arguments.split()], check=True)


def _check_bandwidth(port: int) -> float:
    """The kbit/s in the edge's onBWDone."""
    with socket.create_connection((EDGE, port), LIMIT_S) as connection:
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


def _send(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        try:
            while True:
                connection.sendall(bytes(65536))
        except OSError:
            return


def _transfer(port: int) -> float:
    """The kbit/s of a plain TCP connection, once its window is open."""
    with socket.create_connection((EDGE, port), LIMIT_S) as connection:
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
    print(json.dumps(_measure(int(sys.argv[1]))))
