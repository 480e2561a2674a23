"""Where the package catches every exception, and where it blocks or waits for a fixed time."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "streamedge"

# The boundaries behind which a defect must not spread, each with what becomes of the exception.
# A handler that only cleans up and ends with a plain ``raise`` needs no entry.
CATCH_ALLS = {
    "api/app.py::_Endpoint.__call__": "the caller gets an InternalError, the log the stack",
    "cache/fill.py::Fill._run": "waiting readers get an error with the cause",
    "coordination/config_watch.py::ConfigWatch.refresh": "logged and retried",
    "delivery/http/fast_path/batch.py::HitBatch.run": "the connection reports it and ends",
    "delivery/http/http1/connection.py::Http1Connection._parse_piece": "reported; the end of it",
    "delivery/http/http1/pipeline.py::Pipeline._pass_answered": "the connection reports it, ends",
    "delivery/http/http2/connection.py::Http2Connection._parse": "reported; the connection ends",
    "delivery/rtmp/playback/pump.py::Pump.send": "a timer calls it; the play's task raises it",
    "delivery/rtmp/session.py::RtmpSession._read_piece": "logged with its stack; the session ends",
    "delivery/rtmp/session.py::RtmpSession.guard": "logged with its stack; the session ends",
    "logs/spool.py::SpoolWriter._each_alone": "logged; the other lines are written",
    "logs/spool.py::SpoolWriter._format": "each batch is formatted alone, to lose no other",
    "ops/log.py::Log._each_alone": "the line is counted as dropped; an event has the error",
    "ops/log.py::Log._format": "each line is made alone, so that one that fails loses no other",
    "ops/background.py::Services._keep_running": "logged with its stack; the service restarts",
    "origin/s3/multipart.py::_Multipart.send_parts": "the first failure of the parts is raised",
    "process/apply_config.py::ConfigApplier.end_abandoned_writes": "logged; others go on",
    "process/apply_config.py::watch_config": "logged and retried; the worker serves as before",
    "process/certificates.py::_load": "raised as CertificateError, which names the files",
    "process/child.py::Child.run_forked": "the supervisor logs the stack of the ended child",
    "process/supervisor.py::Supervisor._guard": "logged; the edge goes on",
    "write_back/replicator.py::Replicator.run": "logged; starts again",
    "write_back/replicator.py::Replicator._send": "recorded with the write, which is tried again",
}

# Code that may block: a thread, or a process without an event loop.
BLOCKING_SLEEPS = {
    "cli/cache/jobs.py::run_job",
    "cli/fleet/zone.py::push_zone",
    "cli/operators/top.py::show_top",
    "cli/upgrade.py::run_upgrade",
    "ops/log.py::Log.finish",
    "process/upgrade/all_modules.py::_import",
    "sqlite.py::Database._connected",
}


def with_owner(tree: ast.AST, owner: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.AST]]:
    """All nodes, each with the names of the class and functions around it."""
    for node in ast.iter_child_nodes(tree):
        inner = owner
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*owner, node.name)
        yield ".".join(inner), node
        yield from with_owner(node, inner)


def catches_all(node: ast.AST) -> bool:
    """Whether a handler, or ``suppress``, takes every exception and may not raise it again."""
    match node:
        case ast.ExceptHandler(body=[*_, ast.Raise(exc=None)]):
            return False
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=ast.expr() as caught):
            classes: Sequence[ast.AST] = list(ast.walk(caught))
        case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=classes):
            pass
        case _:
            return False
    names = {each.id for each in classes if isinstance(each, ast.Name)}
    return bool(names & {"BaseException", "BaseExceptionGroup", "Exception", "ExceptionGroup"})


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield str(file.relative_to(PACKAGE)), ast.parse(file.read_text())


def test_every_exception_is_caught_only_at_listed_boundaries() -> None:
    boundaries = {
        f"{path}::{owner}"
        for path, tree in modules()
        for owner, node in with_owner(tree)
        if catches_all(node)
    }
    assert boundaries == set(CATCH_ALLS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("try: f()\nexcept Exception: pass", True),
        ("try: f()\nexcept: pass", True),
        ("try: f()\nexcept (OSError, BaseException) as e: raise Other from e", True),
        ("with contextlib.suppress(Exception): f()", True),
        ("try: f()\nexcept BaseException:\n    g()\n    raise", False),
        ("try: f()\nexcept OSError: pass", False),
        ("with suppress(OSError): f()", False),
    ],
)
def test_handler_of_every_exception_is_recognized(source: str, expected: bool) -> None:
    assert any(catches_all(node) for _owner, node in with_owner(ast.parse(source))) is expected


def sleeps(tree: ast.AST) -> Iterator[tuple[str, str, ast.expr]]:
    """Each call of ``sleep``: its owner, its module, and how long."""
    for owner, node in with_owner(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=module), attr="sleep"), args=[length]
            ):
                yield owner, module, length


def test_no_event_loop_blocks_and_every_pause_has_a_name() -> None:
    """``asyncio.sleep(0)`` is no pause: it lets other tasks run."""
    blocking, unnamed = set(), []
    for path, tree in modules():
        for owner, module, length in sleeps(tree):
            if module == "time":
                blocking.add(f"{path}::{owner}")
            if isinstance(length, ast.Constant) and length.value != 0:
                unnamed.append(f"{path}::{owner}")
    assert unnamed == []
    assert blocking == BLOCKING_SLEEPS


def test_sleeps_are_recognized() -> None:
    tree = ast.parse("async def one():\n    time.sleep(5)\n    await asyncio.sleep(PAUSE_S)")
    assert [(owner, module, ast.unparse(length)) for owner, module, length in sleeps(tree)] == [
        ("one", "time", "5"),
        ("one", "asyncio", "PAUSE_S"),
    ]
