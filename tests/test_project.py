"""Rules for the whole tree: imports, words, make targets, scripts, tasks, the changelog."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
MODULES_MAX = 18  # in one folder


def test_imports_go_one_way() -> None:
    """The contracts of pyproject.toml: layers, RTMP apart from HTTP, origins named by build."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def import_circle(imports: dict[str, set[str]]) -> list[str]:
    """One circle of modules that import each other; empty if there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as exc:
        circle: list[str] = exc.args[1]
        return circle
    return []


def test_modules_have_no_import_circle() -> None:
    graph = grimp.build_graph("streamedge", exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    assert import_circle(imports) == []


def test_import_circle_is_recognized() -> None:
    assert import_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(import_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_folders_hold_few_modules() -> None:
    for root in ("streamedge", "tests", "bench", "tools"):
        modules = Counter(file.parent for file in (ROOT / root).rglob("*.py"))
        assert {folder for folder, count in modules.items() if count > MODULES_MAX} == set()


# Protocol, range, freshness, key, plan and pacing code: values and ``now`` in, decisions out.
PURE = (
    "access/policy.py",
    "access/wildcards.py",
    "admin/access/login_limit.py",
    "admin/access/passwords.py",
    "admin/access/response_fields.py",
    "admin/access/rules.py",
    "admin/access/same_origin.py",
    "admin/access/sessions.py",
    "cache/fill_plan.py",
    "cache/origin_pace.py",
    "cache/rfc9111/",
    "control/invalidations.py",
    "control/position.py",
    "delivery/http/compression/negotiation.py",
    "delivery/http/http1/states.py",
    "delivery/http/http2/engine.py",
    "delivery/http/http2/limits.py",
    "delivery/http/http2/schedule.py",
    "delivery/http/http2/states.py",
    "delivery/http/policy/",
    "delivery/http/response/conditions.py",
    "delivery/http/response/ranges.py",
    "delivery/rtmp/playback/pacing.py",
    "delivery/rtmp/playback/playlist.py",
    "delivery/rtmp/protocol/",
    "delivery/rtmp/rtmpe/handshake.py",
    "delivery/rtmp/rtmpe/key_exchange.py",
    "delivery/rtmp/stream_names.py",
    "fleet/",
    "http_date.py",
    "http_fields.py",
    "keys.py",
    "media/mp3/frames.py",
    "media/mp3/head.py",
    "media/mp4/",
    "media/sniffing.py",
    "ops/history.py",
    "ops/samples.py",
    "origin/group/breaker.py",
    "spans.py",
    "write_back/states.py",
)
IMPURE_IMPORTS = {"asyncio", "fcntl", "mmap", "os", "select", "socket", "ssl", "threading", "time"}


@pytest.mark.parametrize("place", PURE)
def test_pure_code_imports_no_event_loop_socket_file_or_clock(place: str) -> None:
    files = [file for file in (ROOT / "streamedge").rglob("*.py") if is_in(place, file)]
    assert files
    for file in files:
        assert top_level_imports(ast.parse(file.read_text())) & IMPURE_IMPORTS == set(), file


def is_in(place: str, file: Path) -> bool:
    """Whether a file of the package is ``place``, or in the folder ``place``."""
    return str(file.relative_to(ROOT / "streamedge")).startswith(place)


def top_level_imports(tree: ast.Module) -> set[str]:
    """The top-level packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
    return {name.partition(".")[0] for name in names}


def test_top_level_imports_are_those_of_both_statements() -> None:
    tree = ast.parse("import os.path\nfrom time import time\nfrom . import here")
    assert top_level_imports(tree) == {"os", "time"}


# Words that a reader would have to look up; the comment has the plain word.
# A phrase matches whole words, in any case, also inside of identifiers such as ``is_hushed``.
BANNED_WORDS = (
    "anew",  # again
    "anybody",  # any client
    "asked",  # requested
    "asking",  # request
    "askings",  # requests
    "bell",  # wake-up
    "bells",
    "boards",  # shared buffers
    "came about",  # happened
    "comes about",  # happens
    "door",  # listener, entry point
    "everybody",  # all members, all viewers
    "estate",  # inventory
    "found out",  # looked up
    "gate",  # authorizer
    "guesses",  # limit of failed signatures; estimates
    "hasten",  # make due now
    "hence",  # so
    "heed",  # apply, follow
    "heeded",
    "heeding",
    "heeds",
    "hindrance",  # reason to stop
    "holdings",  # resources
    "hush",  # unsubscribe
    "hushed",
    "in force",  # in effect, applied
    "is told",  # is informed
    "lane",  # fast path
    "let go",  # release, close
    "lets go",
    "metronome",  # timers
    "nobody",  # no viewer, no process
    "of what",  # of the bytes that …
    "out of force",  # not applied
    "readmit",  # check access again
    "roster",  # worker status
    "ruling",  # validity
    "rulings",
    "said",  # header value, document, body
    "somebody",  # a viewer, a client, a process
    "sparing",  # rate-limited
    "spelling",  # encoding, form
    "spellings",
    "stage",  # context, step
    "surroundings",  # context
    "takeover",  # reload plan
    "thereby",  # by this
    "told",  # informed, notified, logged
    "twin",  # second, copy
    "unsaid",  # suppressed
    "untold",  # not notified
    "wanted",  # requested, needed
    "whence",  # from where
    "who has",  # a reader that has …
    "whoever",  # say which
    "whom",  # that
    "whomever",
)

# Where such a word has to stay, and why.
ALLOWED_WORDS = {
    ("CHANGELOG.md", "unsaid"): "a field of log lines of an earlier version",
    ("CHANGELOG.md", "wanted"): "a field of log lines of an earlier version",
    ("docs/operations/running.md", "whom"): "an option of systemctl",
    ("streamedge/build/origins.py", "anybody"): "a part of cache keys",
    ("streamedge/cache/storage/locks.py", "whence"): "a member of struct flock, fcntl(2)",
    ("streamedge/cache/storage/records.py", "asked"): "a key of records on disk",
    ("streamedge/write_back/change_signal.py", "bell"): "a file of an earlier version, removed",
    ("streamedge/write_back/rows.py", "untold"): "a table of an earlier version, upgraded",
    ("tests/write_back/test_change_signal.py", "bell"): "a file of an earlier version, removed",
    ("tests/write_back/test_rows.py", "untold"): "a table of an earlier version, upgraded",
}

# A name says what the value is: record, response, tokens, match, size.
PARTICIPLES = {
    "asked", "found", "given", "got", "kept", "known", "made", "said", "taken", "told", "wanted",
}  # fmt: skip


def files_with_words() -> Iterator[Path]:
    """Code, tests and documents; this file names the words itself."""
    yield from ROOT.glob("*.md")
    for folder in ("streamedge", "tests", "bench", "tools", "docs", "media"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in {".py", ".md", ".sh", ".toml"} and file != Path(__file__):
                yield file


def banned_words(text: str) -> list[str]:
    """The words and phrases of BANNED_WORDS in ``text``."""
    plain = f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} "
    return [word for word in BANNED_WORDS if f" {word} " in plain]


def test_only_listed_files_have_a_banned_word() -> None:
    checked, uses = 0, set()
    for file in files_with_words():
        checked += 1
        uses |= {(str(file.relative_to(ROOT)), word) for word in banned_words(file.read_text())}
    assert uses == set(ALLOWED_WORDS)
    assert checked > 500


def test_banned_word_is_recognized_in_prose_and_identifiers() -> None:
    phrase = next(word for word in BANNED_WORDS if " " in word)
    assert banned_words("an ordinary sentence") == []
    assert banned_words(phrase.capitalize() + ".") == [phrase]
    assert banned_words(phrase.replace(" ", "\n    # ")) == [phrase]
    assert banned_words("is_" + phrase.replace(" ", "_")) == [phrase]


def defined_names(tree: ast.Module) -> Iterator[str]:
    """The names of a module's functions, classes, parameters, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name


def test_names_are_no_bare_participles() -> None:
    names, faults = 0, []
    for file in files_with_words():
        if file.suffix == ".py":
            for name in defined_names(ast.parse(file.read_text())):
                names += 1
                if name.strip("_").lower() in PARTICIPLES:
                    faults.append(f"{file.relative_to(ROOT)}: {name}")
    assert faults == []
    assert names > 10_000


def test_defined_names_are_those_that_a_module_binds() -> None:
    source = """
import os as kept
class Made:
    told: int
    def asked(self, given):
        self.taken, other = given
        match other:
            case [said, *wanted]: pass
"""
    names = set(defined_names(ast.parse(source)))
    assert names == {
        "Made", "asked", "given", "kept", "other", "said", "self", "taken", "told", "wanted",
    }  # fmt: skip


# Public, though their names begin with an underscore: named tuples and os._exit.
UNDERSCORED = {"_asdict", "_exit", "_fields", "_make", "_replace"}


# Functions that reach an attribute by its name in a text.
BY_NAME = {"attrgetter", "delattr", "getattr", "hasattr", "object", "patch", "setattr"}
PRIVATE = re.compile(r"(.*\.)?_[^_]")


def private_reads(tree: ast.Module) -> Iterator[ast.expr | ast.ImportFrom]:
    """Each use of a private attribute of another object than ``self`` or ``cls``.

    Also by a text with its name, and an import of a private name from the package.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if PRIVATE.match(name) and name not in UNDERSCORED:
                yield node
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=arguments):
                for argument in arguments[:2] if called in BY_NAME else ():
                    match argument:
                        case ast.Constant(value=str(text)) if PRIVATE.match(text):
                            yield node
            case ast.ImportFrom(module=str(module), names=aliases):
                if module.startswith("streamedge") and any(PRIVATE.match(a.name) for a in aliases):
                    yield node


def test_tests_use_no_private_attribute_of_another_object() -> None:
    """Where a test needs an object's inside, the object has ``stats()`` or a public property."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 200
    uses = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in files
        for node in private_reads(ast.parse(file.read_text()))
    ]
    assert uses == []


def test_private_attribute_is_recognized() -> None:
    allowed = ("self._a", "row._replace(a=1)", "one.two", "getattr(one, 'two')", "call('_result')")
    reads = (
        "pool._leased",
        "self.pool._idle",
        "getattr(pool, '_leased')",
        "monkeypatch.setattr(one, '_two', 3)",
        "monkeypatch.setattr('streamedge.one._two', 3)",
        "from streamedge.one import _two",
    )
    for source in allowed:
        assert list(private_reads(ast.parse(source))) == []
    for source in reads:
        assert [ast.unparse(node) for node in private_reads(ast.parse(source))] == [source]


WAITS = {"join", "settimeout", "timeout", "wait", "wait_for"}
WAIT_MAX_S = 3  # a longer one is how long a test waits for something that does not come
SIMULATION = ROOT / "tests/support/fleet/simulation"  # its clock is not the machine's


def long_waits(source: str) -> list[int]:
    """The lines with a wait whose length is a number above WAIT_MAX_S."""
    lengths: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                if name in WAITS:
                    lengths += node.args[-1:]
                lengths += [word.value for word in node.keywords if word.arg == "timeout"]
            case ast.BinOp(left=ast.Call(func=ast.Attribute(attr="monotonic")), op=ast.Add()):
                lengths.append(node.right)
    return [
        length.lineno
        for length in lengths
        if isinstance(length, ast.Constant)
        and isinstance(length.value, int | float)
        and length.value > WAIT_MAX_S
    ]


def test_tests_wait_for_patience_s_not_for_a_number() -> None:
    files = [file for file in (ROOT / "tests").rglob("*.py") if SIMULATION not in file.parents]
    assert {file: lines for file in files if (lines := long_waits(file.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "asyncio.timeout(20)",
        "asyncio.wait_for(event.wait(), 10.0)",
        "process.wait(30)",
        "subprocess.run([], timeout=60)",
        "deadline_s = time.monotonic() + 20.0",
    ],
)
def test_long_wait_is_recognized(line: str) -> None:
    assert long_waits(line) == [1]
    assert long_waits(re.sub(r"[0-9.]+(?=\)?$)", "PATIENCE_S", line)) == []


def test_docstrings_do_not_open_with_owns() -> None:
    """A docstring says what the code does, not which rule it owns."""
    files = list((ROOT / "streamedge").rglob("*.py"))
    assert [file for file in files if re.search(r'"""Owns\b', file.read_text())] == []


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*  ## ", text, re.MULTILINE))
    assert targets - explained == {"programs"}
    expected = {"install", "run", "test", "test-fast", "bench", "lint", "clean", "help"}
    assert expected <= explained
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    ).stdout
    assert explained == set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE))


def test_fast_tests_exist() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    paths = re.findall(r"^FAST_TESTS := (.*)$", text, re.MULTILINE)[0].split()
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if "journeys" in path] == []


@pytest.mark.parametrize("script", [".ci/run", "tools/make_venv.sh", "tools/install_programs.sh"])
def test_scripts_are_bash_that_stops_at_a_failure(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=PATIENCE_S)


def test_changelog_has_an_unreleased_section() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


TASK_CALLS = {"create_task", "ensure_future"}
# Calls that wait for a task or read its result.
TASK_USES = {"add_done_callback", "await", "gather", "wait", "shield", "wait_for", "result"}


def task_creations(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Each call that creates a task, with the function around it."""
    for owner in ast.walk(tree):
        if isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(owner):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute | ast.Name)
                    and ast.unparse(node.func).rpartition(".")[2] in TASK_CALLS
                ):
                    yield owner, node


def is_handled(module: ast.Module, function: ast.AST, call: ast.Call) -> bool:
    """Whether the task is passed on, awaited, or has a callback that reads its result."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and any(call in ast.walk(each) for each in node.args):
            return True  # passed to an owner
        if isinstance(node, ast.Await | ast.Return) and node.value is call:
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            if call not in ast.walk(node.value):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            (target,) = targets
            name = ast.unparse(target)
            scope = module if "." in name else function
            return any(uses_task(each, name.partition("[")[0]) for each in ast.walk(scope))
    # ``TaskGroup.create_task``: the group waits for the task and raises its exception.
    return isinstance(call.func, ast.Attribute) and any(
        isinstance(item.optional_vars, ast.Name)
        and item.optional_vars.id == ast.unparse(call.func.value)
        for node in ast.walk(function)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
    )


def uses_task(node: ast.AST, name: str) -> bool:
    """Whether ``node`` waits for the task in ``name``, returns it, or reads its result."""
    if isinstance(node, ast.Return) and node.value is not None:
        return ast.unparse(node.value) == name
    if isinstance(node, ast.Await):
        return name in ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in TASK_USES and ast.unparse(node.func.value).startswith(name):
            return True
        return node.func.attr in TASK_USES and any(name in ast.unparse(arg) for arg in node.args)
    return False


def test_result_of_every_task_is_read() -> None:
    """Code that creates a task awaits it, passes it on, or has a callback for its end."""
    count, dropped = 0, []
    for file in sorted((ROOT / "streamedge").rglob("*.py")):
        module = ast.parse(file.read_text())
        if file.name == "background.py":
            continue  # the mechanism itself: tests/ops/test_background.py
        for function, call in task_creations(module):
            count += 1
            if not is_handled(module, function, call):
                dropped.append(f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert dropped == []
    assert count > 15


@pytest.mark.parametrize(
    ("body", "expected"),
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
def test_rule_for_tasks_recognizes_dropped_tasks(body: str, expected: bool) -> None:
    module = ast.parse(f"async def run(self):\n    {body}\n")
    ((function, call),) = task_creations(module)
    assert is_handled(module, function, call) is expected
