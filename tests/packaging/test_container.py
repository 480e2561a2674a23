"""The Containerfile: what an engine would run, read from its instructions.

Tests have no registry for the base image, so the file is checked and no image is built.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

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
