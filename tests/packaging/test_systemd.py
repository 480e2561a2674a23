"""The systemd unit: systemd accepts it, its sandbox is tight, and the edge runs in that sandbox.

systemd is not the first process where tests run, so the journey applies the unit's settings with
unshare, setpriv and prlimit, and compares the system calls of the edge with those that the unit
allows.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.http.http_viewer import fetch
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import run_edge
from tests.support.process.read_only_root import READ_ONLY_ROOT

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "streamedge.service"
EXPOSURE_MAX = 20  # in tenths
USER = 64021
# numpy's OpenBLAS only advises the kernel where memory should be.
MAY_FAIL = {"mbind", "set_mempolicy"}


def settings(section: str = "Service") -> dict[str, list[str]]:
    """The settings of the unit, each with its values in order."""
    values: dict[str, list[str]] = {}
    current = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)
    return values


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # The command is only in packages, so another one stands in its place.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/streamedge", "/usr/bin/env streamedge"))
    verified = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_sandbox_is_tight() -> None:
    limit = f"--threshold={EXPOSURE_MAX}"
    rated = run("systemd-analyze", "security", "--offline=true", limit, "--no-pager", str(UNIT))
    assert rated.returncode == 0, rated.stdout
    assert re.search(r"Overall exposure level for streamedge\.service: [01]\.\d", rated.stdout)


def test_user_and_folders_of_the_unit_are_declared() -> None:
    folder = UNIT.parent
    service = settings()
    (user,) = service["User"]
    assert f"u {user} " in (folder / "streamedge.sysusers").read_text()
    declared = (folder / "streamedge.tmpfiles").read_text()
    for kind, place in {"State": "lib", "Logs": "log"}.items():
        (name,) = service[f"{kind}Directory"]
        (mode,) = service[f"{kind}DirectoryMode"]
        assert f"d /var/{place}/{name} {mode} {user} {user} -" in declared
    for file, command in {
        "streamedge.sysusers": ("systemd-sysusers", "--dry-run"),
        "streamedge.tmpfiles": ("systemd-tmpfiles", "--cat-config"),
    }.items():
        checked = run(*command, str(folder / file))
        assert checked.returncode == 0, checked.stderr


def allowed_calls() -> set[str]:
    """The system calls that the unit allows: its filters one after the other."""
    sets: dict[str, set[str]] = {}
    listed = run("systemd-analyze", "syscall-filter", "--no-pager")
    current: set[str] = set()
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#"):
            current.add(line.strip())

    def members(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        return {call for member in sets[name] for call in members(member)}

    allowed: set[str] = set()
    for line in settings()["SystemCallFilter"]:
        calls = {call for name in line.removeprefix("~").split() for call in members(name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


# Everything is read-only but the state folder, /tmp is private, and the edge is not root.
SANDBOX = (
    r"""
set -e
state=$1 project=$2 calls=$3 program=$4
shift 4
"""
    + READ_ONLY_ROOT
    + r"""
exec prlimit --nofile=4096 -- setpriv --reuid=64021 --regid=64021 --clear-groups \
    --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
    --bounding-set=-all,+net_bind_service --no-new-privs -- \
    strace -D -f -qq -s 0 -o "$calls" -- "${program/#$project/\/srv}" "$@"
"""
)


def test_edge_serves_in_the_sandbox_and_makes_no_other_system_calls(
    tmp_path: Path,
) -> None:
    state, calls = tmp_path / "state", tmp_path / "state" / "calls"
    (state / "media").mkdir(parents=True)
    (state / "media" / "film.txt").write_text("a film")
    state.chmod(0o755)
    for path in (state, *state.rglob("*")):
        os.chown(path, USER, USER)
    before = ["unshare", "--mount", "bash", "-c", SANDBOX, "sandbox"]
    before += [str(state), str(ROOT), str(calls)]
    origins = '[origins.main]\ntype = "directory"\npath = "media"\n'
    port = next(port for port in range(1000, 1024) if is_free(port))
    listen = f'mixed = ["127.0.0.1:{port}"]\n'
    with run_edge(state, origins, workers=2, listen=listen, before=before) as edge:
        status = Path(f"/proc/{edge.pid}/status").read_text()
        assert re.search(rf"Uid:\s+{USER}\s", status)
        assert re.search(r"NoNewPrivs:\s+1", status)
        for each in (edge.http_port, port, edge.http_port):
            response = asyncio.run(fetch(each, "/film.txt"))
            assert (response.status, response.body) == (200, b"a film")
        assert edge.metric("streamedge_cache_folder_usable") == 3
        edge.process.send_signal(signal.SIGHUP)
        edge.await_log("config_loaded")
        assert edge.stop() == 0
        edge.await_log("edge_down")
        assert edge.log("cache_folder_refused") == []
    text = calls.read_text()
    used = set(re.findall(r"^\d+\s+(?:<\.\.\. )?(\w+)(?:\(| resumed>)", text, re.MULTILINE))
    assert {"epoll_wait", "openat", "sendfile"} & used
    assert used - allowed_calls() <= MAY_FAIL
    # MemoryDenyWriteExecute=, RestrictAddressFamilies=
    assert not re.search(r"(mmap|mprotect)\(.*PROT_WRITE\|PROT_EXEC", text)
    families = set(re.findall(r"\bsocket\((AF_\w+)", text))
    assert families <= set(settings()["RestrictAddressFamilies"][0].split())


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
