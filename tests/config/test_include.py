"""A config in several files: what is merged, and where mistakes are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamedge.config.load import load
from streamedge.errors import ConfigError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of a config, by name; returns the path of the main one."""

    def write(main: str, **included: str) -> Path:
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        (tmp_path / "media").mkdir(exist_ok=True)
        for name, text in included.items():
            (tmp_path / "conf.d" / f"{name}.toml").write_text(text)
        (tmp_path / "config.toml").write_text(main)
        return tmp_path / "config.toml"

    return write


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


INCLUDE = 'include = ["conf.d/*.toml"]\n'
MAIN_ORIGIN = '[origins.main]\ntype = "directory"\npath = "media"\n'
OTHER_ORIGIN = '[origins.other]\ntype = "directory"\npath = "media"\n'


def distribution(name: str, origin: str = "main") -> str:
    alias = f"{name.lower()}.example"
    head = f'[[distributions]]\nid = "{name}"\ntype = "web"\norigin = "{origin}"\n'
    return f'{head}aliases = ["{alias}"]\n'


def test_files_become_one_config(write: Write, tmp_path: Path) -> None:
    path = write(
        INCLUDE + MAIN_ORIGIN + distribution("EMAIN"),
        b=distribution("EB", "other"),
        a=OTHER_ORIGIN + distribution("EA") + '[limits]\nurl = "4KiB"\n',
    )
    config = load(path)
    assert [each.id for each in config.distributions] == ["EMAIN", "EA", "EB"]
    assert set(config.origins) == {"main", "other"}
    assert config.limits.url == 4096
    other = config.origins["other"]
    assert other.type == "directory"
    assert other.path == tmp_path / "media"  # from the folder of the main file


def test_table_in_two_files_is_a_mistake_with_both_places(write: Write) -> None:
    path = write(
        INCLUDE + "\n" + MAIN_ORIGIN + '[edge]\nname = "one"\n',
        a='\n[edge]\nname = "two"\n',
        b=MAIN_ORIGIN,
    )
    assert problems(path) == [
        "conf.d/a.toml:2: edge: this table is in config.toml:6 already; a table is in one file"
        " only",
        "conf.d/b.toml:1: origins.main: this table is in config.toml:3 already; a table is in one"
        " file only",
    ]


def test_mistake_has_the_file_and_line_where_it_is(write: Write) -> None:
    path = write(
        INCLUDE + MAIN_ORIGIN + distribution("EMAIN"),
        a=distribution("EA") + "\n\n" + distribution("EB") + "nonsense = 1\n",
        b='[origins.third]\ntype = "directory"\n',
    )
    first, second = problems(path)
    assert first.startswith("conf.d/a.toml:13: distributions[2].nonsense: unknown key")
    assert second.startswith("conf.d/b.toml:1: origins.third.path: missing")


def test_cross_references_between_files_are_checked(write: Write) -> None:
    path = write(INCLUDE + MAIN_ORIGIN, a=distribution("EA", "none"))
    (problem,) = problems(path)
    assert problem.startswith("conf.d/a.toml:4: distributions[0].origin:")


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ('include = "conf.d"', 'expected a list of paths, such as ["conf.d/*.toml"]'),
        ("include = [1]", 'expected a list of paths, such as ["conf.d/*.toml"]'),
        ('include = ["none.toml"]', 'there is no file "none.toml"'),
        ('include = ["a\\u0000b"]', 'there is no file "a\\u0000b"'),
    ],
)
def test_include_that_names_no_file_is_explained(write: Write, include: str, expected: str) -> None:
    (problem,) = problems(write(f"{include}\n"))
    assert problem.startswith("config.toml:1: include: ")
    assert expected in problem


def test_folder_that_may_not_be_read_is_a_mistake(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(INCLUDE + MAIN_ORIGIN, a=distribution("EA"))
    read_folder = os.scandir

    def scandir(folder: str | Path) -> Any:
        if Path(folder).name == "conf.d":  # root may read all
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return read_folder(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert problems(path) == [
        'config.toml:1: include: "conf.d/*.toml" cannot be read: Permission denied'
    ]


def test_pattern_without_a_match_is_empty(write: Write) -> None:
    assert load(write('include = ["none/*.toml"]\n')).distributions == ()


def test_included_file_includes_nothing(write: Write) -> None:
    (problem,) = problems(write(INCLUDE, a='include = ["b.toml"]\n'))
    assert problem == "conf.d/a.toml:1: include: only the main file includes others"


def test_syntax_of_an_included_file_is_reported_with_its_name(write: Write) -> None:
    (problem,) = problems(write(INCLUDE, a="[edge\n"))
    assert problem.startswith("conf.d/a.toml:1: not TOML")
