"""URLs of engines: passwords, TLS, users with few rights; no password in any message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, position_at
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import Engine, EngineError, Snapshot
from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.redis.address import parse_address
from tests.support.certificate_authority import CertificateAuthority
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.process.ports import free_ports

SECRET = "p/ss:w@rd?#1"
ENCODED = "p%2Fss%3Aw%40rd%3F%231"


async def use(engine: Engine) -> None:
    """Every method once."""
    line = Entry(new_entry_id(), EntryKind.LINE, "fra-1", 1.0)
    await engine.begin_line(1, line, Snapshot())
    change = Entry(new_entry_id(), EntryKind.RESOURCES, "fra-1", 1.0)
    await engine.append(change, line=1, documents={"a/b": "{}"}, expected_resources_position=START)
    placed = await engine.read_after(START, "", count=9, wait_s=0)
    assert [each.id for each in placed] == [line.id, change.id]
    assert await engine.entry_ids([position_at(1, 0)]) == [line.id]
    assert (await engine.snapshot()).resources == {"a/b": "{}"}
    await engine.report(Presence("fra-1", EdgeState.UP), 10.0)
    assert list((await engine.presence_after(0)).by_name) == ["fra-1"]
    await engine.withdraw("fra-1")
    await engine.trim(position_at(1, 1), keep=1)
    assert (await engine.bounds()).first == position_at(1, 1)


def test_place_of_a_url_has_no_password() -> None:
    assert parse_address("redis://user:secret@[::1]:7000/3", "c").place == "redis://[::1]:7000/3"
    assert parse_address("rediss://:secret@example", "c").place == "rediss://example:6379/0"
    assert "secret" not in repr(parse_address("redis://user:secret@h", "c"))


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=6, max_size=20))
def test_no_error_of_a_url_has_a_part_of_it(password: str) -> None:
    """Also when special characters of the password are not encoded."""
    for url in (
        f"redis://:{password}@127.0.0.1:x/0",
        f"redis://{password}:x",
        f"http://{password}",
    ):
        with pytest.raises(EngineError, match="redis://HOST:PORT/DB") as error:
            open_engine(url, "a")
        assert error.value.__context__ is None
        assert password not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://host/x",
        "redis://host/0/1",
        "redis://host/0?db=1",
        "redis://host:0x1/0",
        "redis://:pa/ss@host/0",
        "unix:///run/redis",
        "",
    ],
)
def test_unclear_url_is_refused(url: str) -> None:
    with pytest.raises(EngineError, match="redis://HOST:PORT/DB"):
        open_engine(url, "a")


async def test_password_in_the_url_is_used_and_not_shown(tmp_path: Path) -> None:
    with run_redis(tmp_path / "redis", "--requirepass", SECRET) as server:
        engine = open_engine(f"redis://:{ENCODED}@127.0.0.1:{server.port}/0", "secrets")
        await use(engine)
        await engine.close()
        for url in (
            server.url,
            f"redis://:{ENCODED}wrong@127.0.0.1:{server.port}/0",
            f"redis://nobody1:{ENCODED}@127.0.0.1:{server.port}/0",
        ):
            engine = open_engine(url, "secrets")
            for _ in range(2):
                with pytest.raises(EngineError) as error:
                    await engine.bounds()
                assert SECRET not in str(error.value)
                assert ENCODED not in str(error.value)
                assert f"127.0.0.1:{server.port}" in str(error.value)
            await engine.close()


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue("localhost")
    (port,) = free_ports(1)
    options = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    with run_redis(
        tmp_path / "redis", *options, *files, "--tls-ca-cert-file", str(authority.root),
        scheme="rediss",
    ):  # fmt: skip
        engine = open_engine(f"rediss://localhost:{port}/0", "tls")
        with pytest.raises(EngineError, match=r"(?i)certificate"):
            await engine.bounds()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
        await use(engine)
        await engine.close()
        engine = open_engine(f"rediss://127.0.0.1:{port}/0", "tls")  # not the certificate's name
        with pytest.raises(EngineError, match=r"(?i)certificate"):
            await engine.bounds()
        await engine.close()


async def test_user_with_the_rights_that_the_manual_lists_suffices(
    redis_server: RedisServer,
) -> None:
    manual = Path(__file__).parents[3] / "docs" / "operations" / "shared-log.md"
    (line,) = [each for each in manual.read_text().splitlines() if each.startswith("ACL SETUSER")]
    redis_server.call(*line.replace(">PASSWORD", f">{SECRET}").split())
    engine = open_engine(
        f"redis://streamedge:{ENCODED}@127.0.0.1:{redis_server.port}/0", "streamedge"
    )
    await use(engine)
    assert await engine.problems() == []
    await engine.close()
    foreign = open_engine(
        f"redis://streamedge:{ENCODED}@127.0.0.1:{redis_server.port}/0", "foreign"
    )
    with pytest.raises(EngineError, match=r"(?i)no permissions"):
        await foreign.bounds()
    await foreign.close()


async def test_database_of_the_url_is_used(redis_server: RedisServer) -> None:
    engine = open_engine(f"redis://127.0.0.1:{redis_server.port}/3", "databases")
    await use(engine)
    await engine.close()
    assert redis_server.call("DBSIZE") == 0


async def test_connections_are_recognized_by_their_name(redis_server: RedisServer) -> None:
    engine = open_engine(redis_server.url, "names", client_name="streamedge-fra-1")
    await use(engine)
    assert redis_server.call("CLIENT", "LIST").count(b" name=streamedge-fra-1 ") == 3
    await engine.close()
