"""The Containerfile: what an engine would run, read from its instructions.

Tests have no registry for the base image, and engines need cgroups, so no image is built. The
journey runs this tree by the instructions: as their user, with a root that is read-only but for
the volume and /tmp, without capabilities, with their command, health check and stop signal.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.process.read_only_root import READ_ONLY_ROOT

ROOT = Path(__file__).parents[2]
FILE = ROOT / "packaging" / "container" / "Containerfile"
INSTRUCTIONS = {
    *("FROM", "COPY", "RUN", "LABEL", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE"),
    *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def test_instructions_exist_and_lists_are_json() -> None:
    assert {name for name, _value in instructions()} <= INSTRUCTIONS
    for name in ("ENTRYPOINT", "CMD", "VOLUME"):
        for value in values(name):
            assert json.loads(value)
    (check,) = values("HEALTHCHECK")
    program = json.loads(check.partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "healthcheck", "exec")
    assert "build --format docker" in FILE.read_text()  # OCI's format has no health check


def test_edge_is_not_root_and_writes_only_into_its_volume() -> None:
    order = [name for name, _value in instructions()]
    assert values("USER") == ["64021:64021"]
    assert order.index("USER") > max(n for n, name in enumerate(order) if name == "RUN")
    assert values("VOLUME") == ['["/var/lib/streamedge"]']
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_files_that_are_copied_exist() -> None:
    own = [value.split()[:-1] for value in values("COPY") if not value.startswith("--from=")]
    sources = [source for part in own for source in part]
    assert "streamedge" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


# Prints what the instructions promise; the network is one of its own, so that the ports are free.
CONTAINER = (
    r"""
set -e
state=$1 project=$2 python=$3 user=$4 signal=$5 probe=$6
shift 6
ip link set lo up
"""
    + READ_ONLY_ROOT
    + r"""
python=${python/#$project/\/srv}
as_user=(setpriv "--reuid=${user%:*}" "--regid=${user#*:}" --clear-groups --inh-caps=-all
    --ambient-caps=-all --bounding-set=-all --no-new-privs --)
is_healthy() { "${as_user[@]}" "$python" -c "$probe" 2>/dev/null; }
writes() { "${as_user[@]}" touch "$1/written" 2>/dev/null && echo "writes $1"; }
is_healthy || echo "not healthy before"
"${as_user[@]}" "$python" -m "$@" &
until is_healthy; do kill -0 $!; done
echo healthy
curl --silent --show-error http://127.0.0.1:8080/film.txt
for place in / /srv /etc /usr /opt /var/lib /tmp "$state"; do writes "$place" || true; done
kill "-$signal" $!
wait $!
echo stopped
is_healthy || echo "not healthy after"
"""
)


def test_edge_serves_as_the_instructions_say_and_its_health_is_seen(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "media").mkdir(parents=True)
    (state / "media" / "film.txt").write_text("a film\n")
    # As the head of the Containerfile says; the health check knows the default admin address.
    (state / "config.toml").write_text(
        '[edge]\ncache = "cache"\nlog = "edge.log"\n[listen]\nhttp = [":8080"]\nrtmp = [":1935"]\n'
        '[origins.main]\ntype = "directory"\npath = "media"\n'
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
    )
    (user,), (stop,), (check,) = values("USER"), values("STOPSIGNAL"), values("HEALTHCHECK")
    (entry,), (command,) = values("ENTRYPOINT"), values("CMD")
    for path in (state, *state.rglob("*")):
        os.chown(path, *map(int, user.split(":")))
    *arguments, config = json.loads(command)
    assert config == "/etc/streamedge/config.toml"
    probe = json.loads(check.partition("CMD ")[2])[2]
    done = subprocess.run(
        [
            *("unshare", "--mount", "--net", "bash", "-c", CONTAINER, "container"),
            *(str(state), str(ROOT), sys.executable, user, stop.removeprefix("SIG"), probe),
            *(*json.loads(entry), *arguments, str(state / "config.toml")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
    )
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            *("not healthy before", "healthy", "a film", "writes /tmp", f"writes {state}"),
            *("stopped", "not healthy after"),
        ],
    ), done.stderr
