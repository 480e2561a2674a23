"""A running worker applies a new config completely or not at all, and drops no connection."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from streamedge.access.geo import CountryDatabase, CountryDatabaseError
from streamedge.access.keys import KeyFileError
from streamedge.build.origins import bind_origins
from streamedge.build.parts import ServerParts
from streamedge.build.rtmp import rtmp_server
from streamedge.build.web import web_server
from streamedge.cache.invalidated import AppliedInvalidations, InvalidationChecker
from streamedge.cache.objects import Cache
from streamedge.cache.storage.store import Store
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog, RowKind
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.shared_state import WorkerStatus
from streamedge.coordination.wakeups import Wakeups
from streamedge.delivery.http.server import WebServer
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.process.apply_config import ConfigApplier, WorkerComponents, watch_config
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.certificate_authority import replace as replace_file
from tests.support.http.http_viewer import Viewer, open_viewer
from tests.support.mmdb_file import country, mmdb
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin
from tests.support.patience import PATIENCE_S
from tests.support.process.shared_memory import make_shared
from tests.support.rtmp.rtmp_client import frames, open_client
from tests.support.rtmp.rtmp_media import tags_flv

LARGE_BYTES = 8 << 20  # more than sockets hold


@dataclass(slots=True)
class LiveEdge:
    """A worker's servers, in the test's own process. ``tables`` are those of its first config."""

    origin: ScriptedOrigin
    applier: ConfigApplier
    cache: Cache
    web: WebServer
    http_port: int
    rtmp_port: int
    tables: dict[str, Any]
    log_file: Path

    def config(self, **tables: Any) -> Config:
        return Config.model_validate({**self.tables, **tables})

    async def apply(self, **tables: Any) -> None:
        await self.applier.apply(self.config(**tables))

    def lines(self, event: str) -> list[dict[str, Any]]:
        self.cache.log.flush()
        events = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [line for line in events if line["event"] == event]


def web(identifier: str = "EWEB", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "web", "origin": "main", **more}


def rtmp(identifier: str = "ESTREAM", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "rtmp", "origin": "main", **more}


@asynccontextmanager
async def live_edge(root: Path, **tables: Any) -> AsyncIterator[LiveEdge]:
    """Serves EWEB and ESTREAM from a scripted origin, "main"."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(ScriptedOrigin())
        whole: dict[str, Any] = {
            "limits": {"origin_retries": 0},
            "origins": {"main": {"type": "http", "url": origin.url}},
            "distributions": [web(), rtmp()],
            **tables,
        }
        config = Config.model_validate(whole)
        log_file = root.parent / "log"
        log, counts, countries = open_log(str(log_file), "test"), Counts(), CountryDatabase(None)
        cache = Cache(Store(root, 0, log), log, counts, open_extents=64, retries=0)
        bindings = bind_origins(config, log, counts)
        parts = ServerParts(bindings, cache, log, counts, countries)
        servers = (web_server(config, parts), rtmp_server(config, parts))
        components = WorkerComponents(*servers, cache, None, None, countries, log, counts)
        listeners = [socket.create_server(("127.0.0.1", 0)) for _server in servers]
        ports = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.setblocking(False)
        await servers[0].start(listeners[:1])
        await servers[1].start(listeners[1:])
        applier = ConfigApplier(config, bindings, components)
        try:
            yield LiveEdge(origin, applier, cache, servers[0], ports[0], ports[1], whole, log_file)
        finally:
            await asyncio.gather(*(server.drain(0) for server in servers))
            await cache.close()
            for binding in applier.bindings.values():
                await binding.origin.close()
            log.close()


async def status(viewer: Viewer, path: str, host: str = "edge") -> int:
    return (await viewer.get(path, host=host)).status


# Over HTTP


async def test_distributions_are_added_and_removed_on_an_open_connection(
    cache_root: Path,
) -> None:
    first = web(aliases=["a.example"])
    async with live_edge(cache_root, distributions=[first]) as edge:
        edge.origin.put("film.mp4", b"abc")
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "/film.mp4", "a.example") == 200
            assert await status(viewer, "/film.mp4", "b.example") == 421
            await edge.apply(distributions=[first, web("E2", aliases=["b.example"])])
            assert await status(viewer, "/film.mp4", "b.example") == 200
            await edge.apply(distributions=[web("E2", aliases=["b.example"])])
            assert await status(viewer, "/film.mp4", "a.example") == 421
            assert await status(viewer, "/film.mp4", "b.example") == 200


async def test_disabled_distribution_is_not_served(
    cache_root: Path,
) -> None:
    async with live_edge(cache_root) as edge:
        edge.origin.put("film.mp4", b"abc")
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "/film.mp4") == 200
            await edge.apply(distributions=[web(enabled=False), rtmp(enabled=False)])
            assert await status(viewer, "/film.mp4") == 421
            with pytest.raises(KeyError) as caught:
                async with open_client(edge.rtmp_port):
                    pass
            assert caught.value.args[1]["message"] == "DistributionNotFound"
            await edge.apply()
            assert await status(viewer, "/film.mp4") == 200


async def test_fast_path_does_not_use_the_old_rules(cache_root: Path) -> None:
    policies = {
        "response_headers_policies": {
            "one": {"set": {"X-Rules": "one"}},
            "two": {"set": {"X-Rules": "two"}},
        }
    }
    distributions = [web(response_headers_policy="one")]
    async with live_edge(cache_root, distributions=distributions, **policies) as edge:
        edge.origin.put("film.mp4", b"abc")
        async with open_viewer(edge.http_port) as viewer:
            for _time in range(4):  # cold, then by the parser, then by its very bytes
                assert (await viewer.get("/film.mp4")).fields["x-rules"] == "one"
            await edge.apply(distributions=[web(response_headers_policy="two")])
            for _time in range(4):
                response = await viewer.get("/film.mp4")
                assert response.fields["x-rules"] == "two"
            assert response.cache == "Hit"
            await edge.apply(distributions=[web(methods=["GET", "HEAD"], aliases=["a.example"])])
            assert await status(viewer, "/film.mp4") == 421
    assert len(edge.origin.requests) == 1


async def test_running_response_continues_after_its_distribution_and_origin_are_removed(
    cache_root: Path,
) -> None:
    async with live_edge(cache_root) as edge:
        pattern = Pattern(LARGE_BYTES)
        edge.origin.put("film.mp4", pattern)
        edge.origin.hold("film.mp4", at=LARGE_BYTES // 2)
        async with open_viewer(edge.http_port) as viewer:
            await viewer.send_request("/film.mp4")
            assert (await viewer.receive_head()).status == 200
            await edge.apply(distributions=[], origins={})
            edge.origin.release("film.mp4")
            body = await viewer.receive_body(LARGE_BYTES)
            assert body == pattern.read(Span(0, LARGE_BYTES))
            assert await status(viewer, "/film.mp4") == 421
        await edge.origin.until(lambda: edge.origin.connections_open == 0)  # it was closed


async def test_running_request_uses_the_error_pages_of_its_own_config(cache_root: Path) -> None:
    page = {"status": 503, "path": "/sorry.html", "response_status": 200}
    async with live_edge(cache_root, distributions=[web(error_pages=[page])]) as edge:
        edge.origin.put("sorry.html", b"sorry")
        edge.origin.script(Reply(status=503))
        edge.origin.hold_responses()
        async with open_viewer(edge.http_port) as viewer:
            await viewer.send_request("/film.mp4")
            await edge.origin.wait_for_requests(1)
            await edge.apply(distributions=[])
            edge.origin.release_responses()
            response = await viewer.receive()
            assert (response.status, response.body) == (200, b"sorry")


async def test_new_limits_apply_from_the_next_request_on(cache_root: Path) -> None:
    async with live_edge(cache_root) as edge, open_viewer(edge.http_port) as viewer:
        assert await status(viewer, "/" + "a" * 300) == 404
        await edge.apply(limits={"origin_retries": 0, "url": 256})
        assert await status(viewer, "/" + "a" * 300) == 414


# Origins


async def test_unchanged_origin_keeps_its_connections(cache_root: Path) -> None:
    async with live_edge(cache_root) as edge:
        for name in "abc":
            edge.origin.put(name, b"abc")
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "/a") == 200
            before = edge.applier.bindings["main"].origin
            await edge.apply(distributions=[web(default_ttl="1h")])
            assert edge.applier.bindings["main"].origin is before
            assert await status(viewer, "/b") == 200
            assert edge.origin.connections_accepted == 1


async def test_renewed_certificate_files_of_an_origin_are_read_at_a_reload(
    cache_root: Path, tmp_path: Path
) -> None:
    """The authority that the file had before is trusted no longer."""
    (tmp_path / "second").mkdir()
    first, second = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path / "second")
    server, pair = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), first.issue("localhost")
    server.load_cert_chain(pair.certificate, pair.key)
    trusted = tmp_path / "trusted.pem"
    replace_file(trusted, first.root.read_bytes())
    async with ScriptedOrigin(tls=server) as origin, live_edge(cache_root) as edge:
        origins = {"main": {"type": "http", "url": origin.url, "ca": str(trusted)}}
        for name in "abc":
            origin.put(name, b"abc")
        async with open_viewer(edge.http_port) as viewer:
            await edge.apply(origins=origins)
            assert await status(viewer, "/a") == 200
            replace_file(trusted, second.root.read_bytes())
            await edge.apply(origins=origins)
            assert await status(viewer, "/b") == 502
            replace_file(trusted, first.root.read_bytes())
            await edge.apply(origins=origins)
            assert await status(viewer, "/c") == 200
            await edge.apply(origins=origins, distributions=[web(default_ttl="1h")])
        lines = edge.lines("origin_certificates_loaded")
        assert [line["origin"] for line in lines] == ["main", "main"]


async def test_new_origin_settings_apply_to_open_objects_at_once(
    cache_root: Path,
) -> None:
    def origin_with(timeout: str) -> dict[str, Any]:
        return {"main": {"type": "http", "url": edge.origin.url, "read_timeout": timeout}}

    async with live_edge(cache_root) as edge:
        edge.origin.put("film.mp4", Pattern(LARGE_BYTES))
        await edge.apply(origins=origin_with("20s"))
        async with open_viewer(edge.http_port) as viewer:
            assert (await viewer.get("/film.mp4", range="bytes=0-9")).status == 206
            connections = edge.origin.connections_accepted
            await edge.apply(origins=origin_with("30s"))
            await edge.origin.until(lambda: edge.origin.connections_open == 0)
            last = f"bytes={LARGE_BYTES - 10}-{LARGE_BYTES - 1}"
            assert (await viewer.get("/film.mp4", range=last)).status == 206
            assert (await viewer.get("/film.mp4", range="bytes=0-9")).cache == "Hit"
            assert edge.origin.connections_accepted == connections + 1


async def test_origin_with_a_changed_secret_header_shares_no_cached_objects(
    cache_root: Path,
) -> None:
    def origin_with_secret(secret: str) -> dict[str, Any]:
        return {"main": {"type": "http", "url": edge.origin.url, "headers": {"X-Key": secret}}}

    async with live_edge(cache_root) as edge:
        edge.origin.put("film.mp4", b"film")
        async with open_viewer(edge.http_port) as viewer:
            for secret in ("one", "two"):
                await edge.apply(origins=origin_with_secret(secret))
                assert (await viewer.get("/film.mp4")).cache == "Miss"
    assert [request.headers["x-key"] for request in edge.origin.requests] == ["one", "two"]


async def test_group_keeps_its_circuit_breakers_unless_a_member_changes(cache_root: Path) -> None:
    async with live_edge(cache_root) as edge:
        main = {"type": "http", "url": edge.origin.url}
        origins = {"main": main, "spare": {**main, "prefix": "spare"}}
        groups = {"both": {"origins": ["main", "spare"]}}
        distributions = [web(origin="both")]
        both: dict[str, Any] = {"origins": origins, "origin_groups": groups}
        await edge.apply(**both, distributions=distributions)
        first = edge.applier.bindings["both"]
        await edge.apply(**both, distributions=[*distributions, rtmp()])
        assert edge.applier.bindings["both"].origin is first.origin
        assert edge.applier.bindings["both"].first is edge.applier.bindings["main"]
        origins["spare"] = {**main, "prefix": "other"}
        await edge.apply(**both, distributions=distributions)
        assert edge.applier.bindings["both"].origin is not first.origin


async def test_config_that_cannot_be_applied_changes_nothing(cache_root: Path) -> None:
    async with live_edge(cache_root) as edge:
        edge.origin.put("film.mp4", b"abc")
        before = edge.applier.config
        with pytest.raises(KeyFileError):
            await edge.apply(
                public_keys={"K": {"file": "/nowhere"}},
                key_groups={"g": {"keys": ["K"]}},
                origins={"main": {"type": "http", "url": "http://127.0.0.1:9"}},
                distributions=[web(trusted_key_groups=["g"])],
            )
        assert edge.applier.config is before
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "/film.mp4") == 200


# Over RTMP


async def test_running_play_continues_and_the_next_one_uses_the_new_config(
    cache_root: Path,
) -> None:
    async with live_edge(cache_root) as edge:
        edge.origin.put("film.flv", tags_flv(6))
        async with open_client(edge.rtmp_port, buffer_ms=1000) as client:
            client.play("film")
            await client.until_named("video", "aggregate")
            await edge.apply(distributions=[web()])
            client.buffer(60_000)
            await client.until_named("NetStream.Play.Stop")
            assert frames(client.messages)[-1].time_ms == 6 * 1000 - 40
            client.play("film")
            await client.until_named("NetStream.Play.Failed")


# Files


async def test_countries_and_certificates_of_the_new_config_are_used(
    cache_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "de.mmdb").write_bytes(mmdb({"127.0.0.0/8": country("DE")}))
    (tmp_path / "us.mmdb").write_bytes(mmdb({"127.0.0.0/8": country("US")}))
    authority = CertificateAuthority(tmp_path)
    pairs = [authority.issue(name) for name in ("a.example", "b.example")]
    tables = [{"certificate": str(p.certificate), "key": str(p.key)} for p in pairs]
    certificates = Certificates([CertificateFiles(pairs[0].certificate, pairs[0].key)])
    first = certificates.context_for("b.example")
    only_us = [web(countries={"allow": ["US"]})]
    async with live_edge(cache_root) as edge, open_viewer(edge.http_port) as viewer:
        edge.applier.components = replace(edge.applier.components, certificates=certificates)
        edge.origin.put("film.mp4", b"abc")

        async def status_with(database: str) -> int:
            countries = {"database": str(tmp_path / database)}
            await edge.apply(countries=countries, certificates=tables, distributions=only_us)
            return await status(viewer, "/film.mp4")

        assert await status_with("us.mmdb") == 200
        assert await status_with("de.mmdb") == 403
        assert await status_with("us.mmdb") == 200
        assert certificates.context_for("b.example") is not first
        with pytest.raises(CountryDatabaseError):
            await status_with("none.mmdb")
        assert await status(viewer, "/film.mp4") == 200


# Following


async def test_watch_config_applies_each_generation_and_survives_a_failed_one(
    cache_root: Path,
) -> None:
    async with live_edge(cache_root) as edge:
        config_versions, wakeups, worker_status = (
            ConfigVersions(edge.applier.config, 1),
            Wakeups(1),
            WorkerStatus(1),
        )
        shared = make_shared(
            1, config_versions=config_versions, wakeups=wakeups, worker_status=worker_status
        )
        effective = EffectiveConfig(config_versions, ControlDatabase(cache_root), edge.cache.log)
        effective.refresh()
        applied = asyncio.Queue[int]()
        wakeups.subscribe(
            wakeups.control, lambda: applied.put_nowait(config_versions.applied_generation(0))
        )
        edge.applier.config = effective.config
        following = asyncio.create_task(
            watch_config(
                edge.applier,
                effective,
                shared,
                0,
                lambda: AppliedInvalidations(7, [], is_current=True),
            )
        )
        assert await applied.get() == 0
        assert worker_status.have_applied(7)

        config_versions.publish(edge.config(distributions=[web(aliases=["a.example"])]))
        wakeups.notify_at(0)
        assert await applied.get() == 1
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "/film.mp4", "b.example") == 421
            keys = {
                "public_keys": {"K": {"file": "/nowhere"}},
                "key_groups": {"g": {"keys": ["K"]}},
            }
            config_versions.publish(
                edge.config(**keys, distributions=[web(trusted_key_groups=["g"])])
            )
            wakeups.notify_at(0)
            assert await applied.get() == 2
            assert "KeyFileError" in edge.lines("config_not_applied")[0]["error"]
            assert await status(viewer, "/film.mp4", "b.example") == 421
            config_versions.publish(edge.config())
            wakeups.notify_at(0)
            assert await applied.get() == 3
            assert await status(viewer, "/film.mp4", "b.example") == 404
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        wakeups.unsubscribe(wakeups.control)
        wakeups.close()
        config_versions.close()


async def test_invalidation_makes_no_worker_read_its_config_again(cache_root: Path) -> None:
    """Only a row that announces a new config, or a new config file, does."""
    async with live_edge(cache_root) as edge:
        config_versions, wakeups = ConfigVersions(edge.applier.config, 1), Wakeups(1)
        worker_status = WorkerStatus(1)
        shared = make_shared(
            1, config_versions=config_versions, wakeups=wakeups, worker_status=worker_status
        )
        database = ControlDatabase(cache_root)
        effective = CountingConfig(config_versions, database, edge.cache.log)
        applied = asyncio.Event()
        wakeups.subscribe(wakeups.control, applied.set)
        log = ControlLog(database)
        checker = InvalidationChecker(edge.cache.store, InvalidationIndex(log, edge.cache.log))
        following = asyncio.create_task(
            watch_config(edge.applier, effective, shared, 0, checker.apply_new)
        )

        async def until_applied() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not worker_status.have_applied(log.position()):
                    applied.clear()
                    await applied.wait()

        worker_status.mark_up(0)
        log.append(RowKind.CONFIGURATION, "E", {})
        wakeups.notify_at(0)
        await until_applied()
        reads = effective.reads
        for name in ("/a", "/b"):
            log.invalidate("E", [name])
            wakeups.notify_at(0)
            await until_applied()
        assert effective.reads == reads
        log.append(RowKind.CONFIGURATION, "E", {})
        wakeups.notify_at(0)
        await until_applied()
        assert effective.reads == reads + 1
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        wakeups.unsubscribe(wakeups.control)
        wakeups.close()
        config_versions.close()
        database.close()


class CountingConfig(EffectiveConfig):
    """Counts its reads."""

    reads = 0

    def refresh(self) -> bool:
        self.reads += 1
        return super().refresh()
