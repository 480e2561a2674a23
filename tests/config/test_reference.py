"""The config reference has the whole schema, and docs/reference/config.md has the reference."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from streamedge.config.describe import default, restart_keys, sections
from streamedge.config.reference import BEGIN, END, keys, render
from streamedge.config.schema.config import Section
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "config.md"


def test_config_page_has_the_generated_reference() -> None:
    text = PAGE.read_text()
    between = text.partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == render().strip(), (
        "put what `python -m streamedge.config.reference` prints between the markers of config.md"
    )


@pytest.mark.parametrize("key", keys())
def test_config_page_lists_the_key(key: str) -> None:
    assert f"| `{key}` |" in PAGE.read_text()


def test_reference_has_every_section_of_the_schema() -> None:
    documented = {section for _, _, section in sections()}

    def leaves(section: type[BaseModel]) -> set[type[BaseModel]]:
        subclasses = section.__subclasses__()
        return set().union(*map(leaves, subclasses)) if subclasses else {section}

    assert {section.__name__ for section in leaves(Section)} - {"Config"} == {
        section.__name__ for section in documented
    }


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for _, _, section in sections() for key in section.model_fields],
)
def test_key_has_a_description_and_a_default_that_parses_to_the_default_value(
    section: type[Section], key: str
) -> None:
    field = section.model_fields[key]
    assert field.description
    if field.is_required() or field.default is None:
        assert default(field) == ""
        return
    value = tomllib.loads(f"value = {default(field)}")["value"]
    if value == "":
        return  # left out: not the same as an empty string, which some keys refuse
    read = section.__pydantic_validator__.validate_assignment(section.model_construct(), key, value)
    assert getattr(read, key) == field.default


@pytest.mark.parametrize(
    ("header", "section"), [(header, section) for header, _, section in sections()]
)
def test_reference_marks_the_keys_that_need_a_restart(header: str, section: type[Section]) -> None:
    table = render().partition(f"## `{header}`\n")[2].partition("\n## ")[0]
    rows = [line.replace("\\|", "").split(" | ") for line in table.splitlines() if "`" in line]
    restart = {row[0].rpartition(".")[2].rstrip("`") for row in rows if row[4] == "restart"}
    assert restart == set(restart_keys(section))
    assert {row[4] for row in rows} <= {"live", "restart"}


def test_only_some_tables_have_keys_that_need_a_restart() -> None:
    restart = {f"{name}.{key}" for _, name, section in sections() for key in restart_keys(section)}
    assert {name.partition(".")[0] for name in restart} == {
        "edge",
        "listen",
        "fleet",
        "limits",
        "admin",
    }


def test_module_prints_the_reference() -> None:
    command = [sys.executable, "-m", "streamedge.config.reference"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert printed.stdout == render()
