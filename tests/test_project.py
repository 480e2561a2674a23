"""Rules for the whole tree: the direction of imports, make targets, scripts, the changelog."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way() -> None:
    """The contracts of pyproject.toml: layers, rtmp and web apart, origins named by edge alone."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z]+):.*  ## ", text, re.MULTILINE))
    assert declared - explained == {"programs"}
    assert {"install", "run", "test", "bench", "lint", "clean", "help"} <= explained


@pytest.mark.parametrize("script", [".ci/run", "tools/make_venv.sh", "tools/install_programs.sh"])
def test_scripts_are_bash_that_stops_at_a_failure(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)


def test_the_changelog_has_a_place_for_what_comes() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


TASK_MAKERS = {"create_task", "ensure_future"}
# What looks at how a task ended, or waits for it.
TASK_TAKERS = {"add_done_callback", "await", "gather", "wait", "shield", "wait_for", "result"}


def calls_that_make_tasks(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Each such call, with the function or class around it in which its task is looked after."""
    for owner in ast.walk(tree):
        if isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(owner):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute | ast.Name)
                    and ast.unparse(node.func).rpartition(".")[2] in TASK_MAKERS
                ):
                    yield owner, node


def is_looked_after(module: ast.Module, function: ast.AST, call: ast.Call) -> bool:
    """Whether the task is handed on, awaited, or has a callback that looks at its end."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and any(call in ast.walk(each) for each in node.args):
            return True  # handed to an owner
        if isinstance(node, ast.Await | ast.Return) and node.value is call:
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            if call not in ast.walk(node.value):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            (target,) = targets
            name = ast.unparse(target)
            where = module if "." in name else function
            return any(takes(each, name.partition("[")[0]) for each in ast.walk(where))
    # ``TaskGroup.create_task``: the group waits for it and raises what it raised.
    return isinstance(call.func, ast.Attribute) and any(
        isinstance(item.optional_vars, ast.Name)
        and item.optional_vars.id == ast.unparse(call.func.value)
        for node in ast.walk(function)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
    )


def takes(node: ast.AST, name: str) -> bool:
    """Whether ``node`` waits for the task called ``name``, hands it on, or is told of its end."""
    if isinstance(node, ast.Return) and node.value is not None:
        return ast.unparse(node.value) == name
    if isinstance(node, ast.Await):
        return name in ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in TASK_TAKERS and ast.unparse(node.func.value).startswith(name):
            return True
        return node.func.attr in TASK_TAKERS and any(name in ast.unparse(arg) for arg in node.args)
    return False


def test_no_task_ends_unseen() -> None:
    """Whoever makes a task awaits it, hands it on, or is told how it ended."""
    found, dropped = 0, []
    for file in sorted((ROOT / "streamedge").rglob("*.py")):
        module = ast.parse(file.read_text())
        if file.name == "background.py":
            continue  # the mechanism itself: tests/ops/test_background.py
        for function, call in calls_that_make_tasks(module):
            found += 1
            if not is_looked_after(module, function, call):
                dropped.append(f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert dropped == []
    assert found > 15


@pytest.mark.parametrize(
    ("body", "is_right"),
    [
        ("create_task(work())", False),
        ("task = asyncio.create_task(work())", False),
        ("task = asyncio.create_task(work())\n    task.cancel()", False),
        ("self.task = asyncio.create_task(work())", False),
        ("task = asyncio.create_task(work())\n    await task", True),
        ("task = asyncio.create_task(work())\n    task.add_done_callback(ended)", True),
        ("task = asyncio.create_task(work())\n    await asyncio.wait([task])", True),
        ("task = asyncio.create_task(work())\n    return task", True),
        ("self.keep(asyncio.create_task(work()))", True),
        ("async with asyncio.TaskGroup() as group:\n        group.create_task(work())", True),
    ],
)
def test_rule_for_tasks_tells_right_from_wrong(body: str, is_right: bool) -> None:
    module = ast.parse(f"async def run(self):\n    {body}\n")
    ((function, call),) = calls_that_make_tasks(module)
    assert is_looked_after(module, function, call) is is_right
