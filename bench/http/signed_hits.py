"""Hits with signed URLs beside hits with unsigned ones, and the time of the access decision.

``python -m bench.http.signed_hits PLAN`` times the decision in this process and prints a
``DecisionTimes``. The URLs have a custom policy for the whole host, as players use it that make
many range requests.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bench.http.http_hits import CONNECTIONS, PATH
from bench.loads.http_load import CrowdPlan, HitsPlan, crowd, hit
from bench.loads.load import LoadResult, run_load
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.rounds import ROUNDS, ratio_figures, rounds_of
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.server import LOOPBACK, Failure, Server
from bench.servers.titles import titles
from streamedge.access.admission import AccessRules, CountryRule, Denied
from streamedge.access.geo import CountryDatabase
from streamedge.access.keys import load_public_key
from streamedge.delivery.http.request.authorization import Authorizer, CachedGrant
from streamedge.delivery.http.request.request import WebRequest

UNSIGNED = f"{STREAMEDGE}, unsigned"
KEY_ID = "KBENCH"
SIZES_BYTES = (1 << 10, 256 << 10)
UNTIL_S = 2_000_000_000
DECISIONS = 20_000
DECISION_LIMIT_US = 10
RATIO_MIN = 0.8


@dataclass(frozen=True, slots=True)
class DecisionTimes:
    """Microseconds of a hit with a memoized request, and of one whose request is parsed."""

    memoized_us: float
    parsed_us: float


def signed_hits(options: Options) -> list[Figure]:
    """Throughput of signed and unsigned hits, their ratio, and the decision's time."""
    films = titles()
    private = rsa.generate_private_key(65537, 2048)
    figures = []
    with ExitStack() as stack:
        source = stack.enter_context(origin(films.folder))
        plain = stack.enter_context(streamedge(source.port, core=SERVER_CORE))
        signed = stack.enter_context(
            streamedge(source.port, core=SERVER_CORE, signer=(KEY_ID, _public_pem(private)))
        )
        paths = {UNSIGNED: PATH, STREAMEDGE: _signed_path(private)}
        servers: dict[str, Server | Failure] = {UNSIGNED: plain, STREAMEDGE: signed}
        for name, server in ((UNSIGNED, plain), (STREAMEDGE, signed)):
            crowd(CrowdPlan(server.http_port, paths[name], readers=1))
        names = {plain.http_port: UNSIGNED, signed.http_port: STREAMEDGE}
        for size_bytes in SIZES_BYTES:

            def measure(server: Server, size_bytes: int = size_bytes) -> LoadResult:
                return hit(
                    HitsPlan(
                        port=server.http_port,
                        path=paths[names[server.http_port]],
                        object_bytes=films.moov_first.stat().st_size,
                        range_bytes=size_bytes,
                        connections=CONNECTIONS,
                        seconds=options.seconds / len(SIZES_BYTES) / ROUNDS / 2,
                        server_pid=server.pid,
                    )
                )

            results = rounds_of(servers, measure)
            label = f"{size_bytes >> 10} KiB"
            figures += ratio_figures(label, results, UNSIGNED, RATIO_MIN, peer_word="unsigned")
    times = DecisionTimes(**run_load("bench.http.signed_hits", {}, limit_s=60.0, core=SERVER_CORE))
    limit = Target(DECISION_LIMIT_US)
    return [
        *figures,
        Figure("access decision, memoized request", "µs", {STREAMEDGE: times.memoized_us}, limit),
        Figure("access decision, parsed request", "µs", {STREAMEDGE: times.parsed_us}, limit),
    ]


def _public_pem(private: rsa.RSAPrivateKey) -> str:
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _signed_path(private: rsa.RSAPrivateKey) -> str:
    """The path and query of a signed URL; the load generator's Host has no port."""
    signer = CloudFrontSigner(
        KEY_ID, lambda message: private.sign(message, padding.PKCS1v15(), hashes.SHA1())
    )
    statement = {
        "Resource": f"http://{LOOPBACK}/*",
        "Condition": {"DateLessThan": {"AWS:EpochTime": UNTIL_S}},
    }
    policy = json.dumps({"Statement": [statement]}, separators=(",", ":"))
    url = signer.generate_presigned_url(f"http://{LOOPBACK}{PATH}", policy=policy)
    return url.removeprefix(f"http://{LOOPBACK}")


def _decide() -> DecisionTimes:
    private = rsa.generate_private_key(65537, 2048)
    key = load_public_key(KEY_ID, _public_pem(private).encode())
    rules = AccessRules({KEY_ID: key}, CountryRule(frozenset({"DE"}), False, True))
    authorizer = Authorizer(CountryDatabase(None))
    path, _, query = _signed_path(private).partition("?")
    request = WebRequest("GET", LOOPBACK, path.encode(), {}, "", True, 0.0, query, address=LOOPBACK)
    grant = authorizer.admit(rules, request, time.time())
    assert not isinstance(grant, Denied)
    granted = CachedGrant(rules, grant)
    return DecisionTimes(
        memoized_us=_time_us(lambda: authorizer.still_allows(granted, LOOPBACK, 1_000.0)),
        parsed_us=_time_us(lambda: authorizer.admit(rules, request, 1_000.0)),
    )


def _time_us(decide: Any) -> float:
    times = []
    for _ in range(5):
        began_s = time.perf_counter()
        for _ in range(DECISIONS):
            decide()
        times.append((time.perf_counter() - began_s) / DECISIONS * 1e6)
    return median(times)


if __name__ == "__main__":
    print(json.dumps(asdict(_decide())))
