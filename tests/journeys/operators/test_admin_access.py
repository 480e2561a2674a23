"""Journeys: who gets what at the admin address of a real edge, over TCP, TLS and a Unix socket."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from streamedge.admin.access.passwords import hash_token
from tests.support.admin.access import PASSWORD, PASSWORD_HASH
from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge

FOLDER = '[origins.main]\ntype = "directory"\npath = "."\n'
TOKEN = "journey-token"
USERS = (
    f'users.anna = {{password = "{PASSWORD_HASH}", role = "operator"}}\n'
    f'users.rita = {{password = "{PASSWORD_HASH}", role = "reader"}}\n'
    f'tokens.deploy = {{hash = "{hash_token(TOKEN)}", role = "operator"}}\n'
)
INVALIDATION = {"distribution": "EWEB", "items": ["/*"]}
WILDCARD = "0.0.0.0"
SIOCGIFADDR = 0x8915  # netdevice(7)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@contextmanager
def tls_edge(folder: Path, authority: CertificateAuthority) -> Iterator[tuple[EdgeProcess, Pair]]:
    """An edge with users whose admin address is on all addresses of the machine, over TLS."""
    pair = authority.issue("ops.example")
    lines = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n{USERS}'
    with run_edge(folder, FOLDER, admin=lines, admin_listen=WILDCARD) as edge:
        yield edge, pair


def streamedge(
    *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the product."""
    return subprocess.run(
        [sys.executable, "-m", "streamedge", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **environment},
    )


def test_user_logs_in_over_tls_and_foreign_pages_do_nothing(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    with tls_edge(tmp_path, authority) as (edge, _):
        url = f"https://127.0.0.1:{edge.admin_port}"
        with httpx.Client(
            verify=False, base_url=url, timeout=PATIENCE_S, trust_env=False
        ) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/invalidations?distribution=EWEB").status_code == 401
            assert client.post("/invalidations", json=INVALIDATION).status_code == 401
            body = {"user": "anna", "password": PASSWORD}
            assert client.post("/login", json={**body, "password": "wrong"}).status_code == 401
            assert client.post("/login", json=body).status_code == 200
            assert client.post("/invalidations", json=INVALIDATION).status_code == 201
            for fields, status in (
                ({"Origin": "https://attacker.example"}, 403),
                ({"Origin": "null"}, 403),
                ({"Origin": url}, 201),
                ({"Sec-Fetch-Site": "cross-site", "Origin": url}, 403),
                ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 201),
                ({"Host": "attacker.example"}, 421),
                ({"Host": "ops.example"}, 201),
                ({"X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.1"}, 201),
            ):
                answer = client.post("/invalidations", json=INVALIDATION, headers=fields)
                assert answer.status_code == status, fields
                assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            stale = client.cookies["__Host-streamedge"]
            assert client.post("/logout").status_code == 200
            client.cookies.set("__Host-streamedge", stale)
            assert client.get("/invalidations?distribution=EWEB").status_code == 401
        (failed,) = edge.await_log("admin_login_failed")
        assert failed["user"] == "anna"
        assert edge.await_log("admin_login")[0]["client"] == "127.0.0.1"
        calls = edge.await_log("admin_call", 3)
        assert [call["status"] for call in calls[:2]] == [401, 201]
        assert calls[1]["user"] == "anna"
        assert PASSWORD not in (edge.folder / "edge.log").read_text()


def test_reader_reads_and_token_works_until_it_is_removed(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    with tls_edge(tmp_path, authority) as (edge, _):
        url = f"https://127.0.0.1:{edge.admin_port}"
        with httpx.Client(
            verify=False, base_url=url, timeout=PATIENCE_S, trust_env=False
        ) as client:
            login = {"user": "rita", "password": PASSWORD}
            assert client.post("/login", json=login).json()["user"] == "rita"
            assert client.get("/invalidations?distribution=EWEB").status_code == 200
            assert client.post("/invalidations", json=INVALIDATION).status_code == 403
            assert client.post("/reload").status_code == 403
            client.cookies.clear()
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            assert client.get("/writes", headers=bearer).status_code == 200
            config = edge.folder / "config.toml"
            config.write_text(config.read_text().replace("tokens.deploy", "#tokens.deploy"))
            assert client.post("/reload", headers=bearer).json()["changed"] == ["admin.tokens"]
            assert client.get("/writes", headers=bearer).status_code == 401


def test_commands_reach_an_edge_over_tls_with_token_or_user(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    with tls_edge(tmp_path, authority) as (edge, _):
        config = ("--config", str(edge.folder / "config.toml"))
        refused = streamedge("writes", *config)
        assert refused.returncode == 1
        assert "give --user NAME, or a token in STREAMEDGE_ADMIN_TOKEN" in refused.stderr
        shown = streamedge("writes", "--json", *config, STREAMEDGE_ADMIN_TOKEN=TOKEN)
        assert json.loads(shown.stdout)["rows"] == []
        wrong = streamedge("writes", *config, STREAMEDGE_ADMIN_TOKEN="wrong")
        assert wrong.returncode == 1
        assert "does not know this token" in wrong.stderr
        as_user = streamedge("--user", "anna", "reload", *config, stdin=f"{PASSWORD}\n")
        assert as_user.returncode == 0, as_user.stderr
        assert "Nothing has changed" in as_user.stdout
        edge.await_log("admin_logout")
        url = f"https://localhost:{edge.admin_port}"
        untrusted = streamedge("--admin", url, "--token", TOKEN, "writes")
        assert untrusted.returncode == 1
        assert "no TLS connection to the admin address" in untrusted.stderr


def test_command_trusts_the_names_of_a_certificate_by_its_authority(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    pair = authority.issue("localhost")
    lines = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n{USERS}'
    with run_edge(tmp_path, FOLDER, admin=lines) as edge:
        url = f"https://localhost:{edge.admin_port}"
        options = ("--admin", url, "--ca", str(authority.root), "--token", TOKEN)
        shown = streamedge(*options, "writes", "--json")
        assert shown.returncode == 0, shown.stderr
        authority.issue("localhost", "renewed.example", into=pair)
        edge.await_log("certificate_loaded", timeout_s=PATIENCE_S)
        assert streamedge(*options, "writes").returncode == 0


def test_other_machines_get_only_health_and_metrics_without_users(tmp_path: Path) -> None:
    """Another address of this machine stands for another machine: only loopback is local."""
    address = own_address()
    with run_edge(tmp_path, FOLDER, admin_listen=WILDCARD) as edge:
        url = f"http://{address}:{edge.admin_port}"
        with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
            assert client.get(f"{url}/healthz").status_code == 200
            assert client.get(f"{url}/metrics").status_code == 200
            for answer in (
                client.get(f"{url}/writes"),
                client.get(f"{url}/"),
                client.post(f"{url}/reload"),
                client.get(f"{url}/writes", headers={"X-Forwarded-For": "127.0.0.1"}),
                client.get(f"{url}/writes", headers={"Host": f"127.0.0.1:{edge.admin_port}"}),
            ):
                assert answer.status_code == 403
                assert "streamedge password" in answer.json()["error"]
            local = f"http://127.0.0.1:{edge.admin_port}"
            assert client.get(f"{local}/writes").status_code == 200
        config = ("--config", str(edge.folder / "config.toml"))
        assert streamedge("reload", *config).returncode == 0


def test_unix_socket_is_served_to_commands_without_a_password(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with run_edge(tmp_path / "edge", FOLDER, admin=USERS, admin_listen=f"unix:{path}") as edge:
        assert oct(path.stat().st_mode)[-3:] == "660"
        config = ("--config", str(edge.folder / "config.toml"))
        reloaded = streamedge("reload", *config)
        assert reloaded.returncode == 0, reloaded.stderr
        invalidated = streamedge("--admin", f"unix:{path}", "invalidate", "EWEB", "/*", "--wait")
        assert invalidated.returncode == 0, invalidated.stderr
        curl = ["curl", "-sS", "--unix-socket", str(path), "http://localhost/healthz"]
        shown = subprocess.run(curl, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert json.loads(shown.stdout)["ready"]
        foreign = subprocess.run(
            [*curl[:-1], "-X", "POST", "-H", "Origin: null", "http://localhost/reload"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert "other sites" in foreign.stdout
    assert not path.exists()


def test_password_command_prints_a_line_for_the_config(tmp_path: Path) -> None:
    printed = streamedge("password", stdin="a long password\n")
    assert printed.returncode == 0
    assert printed.stdout.startswith("scrypt:")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[admin]\nusers.anna = {{password = "{printed.stdout.strip()}", role = "operator"}}\n'
    )
    assert streamedge("check", "--config", str(config)).returncode == 0
    short = streamedge("password", stdin="short\n")
    assert (short.returncode, short.stdout) == (2, "")
    token, line = streamedge("password", "--token").stdout.splitlines()
    assert line == f"hash  {hash_token(token.removeprefix('token '))}"


def own_address() -> str:
    """An IPv4 address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                entry = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                address = socket.inet_ntoa(entry[20:24])
                if not address.startswith("127."):
                    return address
    raise OSError("this machine has only loopback addresses")
