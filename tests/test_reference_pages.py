"""The reference pages list what the code has: events, metrics, operations, statuses, limits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamedge.access.signature_cache import ENTRIES_MAX as SIGNATURES_MAX
from streamedge.cache.open_object import FILLS_MAX
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.cache.storage.store import MEMORY_EXTENTS_MAX
from streamedge.cli import reference
from streamedge.delivery.http.compression.compressor import COMPRESSIONS_MAX
from streamedge.delivery.http.compression.negotiation import COMPRESSED_BYTES_MAX
from streamedge.delivery.http.http2.limits import (
    CONNECTION_WINDOW_BYTES,
    CONTINUATIONS_MAX,
    CONTROLS,
    FIELDS_MAX,
    GLITCHES,
    HEAD_LIST_BYTES_MAX,
    REQUESTS_MAX,
    RESETS,
    STREAM_WINDOW_BYTES,
    STREAMS_MAX,
)
from streamedge.delivery.http.http2.responder import ROUND_BYTES
from streamedge.delivery.http.request.request import HEAD_BYTES_MAX, HEAD_MEMBERS_MAX
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.object_names import NAME_BYTES_MAX
from streamedge.delivery.rtmp.playback.playlist import ITEMS_MAX
from streamedge.delivery.rtmp.session import CHUNKS_PER_S_MAX
from streamedge.delivery.rtmp.streams import WRONG_SIGNATURES_MAX
from streamedge.media.containers.cutting import AUDIO_SEGMENT_MS, VIDEO_SEGMENT_MS
from streamedge.media.containers.helper import STREAMS_MAX as CONTAINER_STREAMS_MAX
from streamedge.media.containers.medium import KEYFRAME_SEGMENTS
from streamedge.media.containers.segment import SEGMENT_BYTES_MAX, TAGS_MAX
from streamedge.media.mp4.moov import TRACKS_MAX
from streamedge.media.mp4.sample_table import SAMPLES_MAX
from streamedge.ops.log import FIELD_CHARACTERS_MAX, FIELD_ITEMS_MAX
from streamedge.ops.metrics import LABELS_MAX, Counter, Gauge
from tests.support.api.api_operations import OFFERED_OPERATIONS
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
MODULES = {path: ast.parse(path.read_text()) for path in (ROOT / "streamedge").rglob("*.py")}
COMMON_FIELDS = {"time", "event", "process"}


def _rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page."""
    lines = (PAGES / page).read_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| ")
    ]


def _quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


# Commands


def test_command_page_has_the_text_of_help() -> None:
    text = (PAGES / "cli.md").read_text()
    between = text.partition(reference.BEGIN)[2].partition(reference.END)[0]
    assert between.strip() == reference.render().strip(), "run `make reference`"


def test_module_prints_the_command_reference() -> None:
    command = [sys.executable, "-m", "streamedge.cli.reference"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert printed.stdout == reference.render()


# Log events


@dataclass
class Event:
    """``fields`` that calls name; ``is_open``: a call adds others by ``**``."""

    fields: set[str] = field(default_factory=set)
    is_open: bool = False


@dataclass(frozen=True)
class Emitter:
    """A function that logs the event that its caller names, behind ``prefix``."""

    prefix: str
    fields: frozenset[str]


def _function_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _keywords(call: ast.Call) -> set[str]:
    return {keyword.arg for keyword in call.keywords if keyword.arg is not None}


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _names(node: ast.expr) -> list[str]:
    """The event names that an argument may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value] if re.fullmatch("[a-z][a-z0-9_]*", node.value) else []
    if isinstance(node, ast.IfExp):
        return _names(node.body) + _names(node.orelse)
    return []


def _forwarded(node: ast.expr, parameters: set[str]) -> str | None:
    """What a function puts before an event's name that is its own parameter; None: it is not."""
    if isinstance(node, ast.Name) and node.id in parameters:
        return ""
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), ast.FormattedValue() as rest]):
            return prefix if _forwarded(rest.value, parameters) == "" else None
    return None


def _emitters(trees: list[ast.Module]) -> dict[str, Emitter]:
    """By name: ``Log.event``, and the functions that pass an event's name on to it."""
    emitters = {"event": Emitter("", frozenset())}
    while True:
        count = len(emitters)
        for function in (function for tree in trees for function in _functions(tree)):
            parameters = {argument.arg for argument in function.args.args}
            for call in _calls(function):
                inner = emitters.get(_function_name(call))
                if inner is None or function.name in emitters:
                    continue
                prefix = _forwarded(call.args[0], parameters)
                if prefix is not None:
                    emitters[function.name] = Emitter(
                        inner.prefix + prefix, inner.fields | _keywords(call)
                    )
        if len(emitters) == count:
            return emitters


def _logged() -> dict[str, Event]:
    """All events that the code logs, with the fields of each.

    A package is a folder such as delivery/rtmp with its subfolders.
    """
    events: dict[str, Event] = defaultdict(Event)
    packages: dict[str, list[Path]] = defaultdict(list)
    for path in MODULES:
        packages["/".join(path.parent.relative_to(ROOT).parts[:3])].append(path)
    for paths in packages.values():
        emitters = _emitters([MODULES[path] for path in paths])
        for call in (call for path in paths for call in _calls(MODULES[path])):
            emitter = emitters.get(_function_name(call))
            for name in _names(call.args[0]) if emitter is not None else []:
                event = events[emitter.prefix + name]  # type: ignore[union-attr]
                event.fields |= _keywords(call) | emitter.fields  # type: ignore[union-attr]
                event.is_open |= any(keyword.arg is None for keyword in call.keywords)
    for name, fields in _rate_limited():
        events[name].fields |= fields
    template = "".join(
        value
        for node in ast.walk(MODULES[ROOT / "streamedge/delivery/http/response/access_log.py"])
        if isinstance(node, ast.Constant) and isinstance(value := node.value, str)
    )
    events["response"].fields |= set(re.findall(r'"(\w+)":', template)) - COMMON_FIELDS
    return dict(events)


def _rate_limited() -> Iterator[tuple[str, set[str]]]:
    """Events of ``RateLimitedLine`` and its like: a class whose method logs ``self.ATTRIBUTE``."""
    for node in (node for tree in MODULES.values() for node in ast.walk(tree)):
        if not isinstance(node, ast.ClassDef):
            continue
        for method in _functions(node):
            for call in _calls(method):
                if _function_name(call) == "event" and isinstance(call.args[0], ast.Attribute):
                    yield from _of_class(node.name, method.name, _keywords(call))


def _of_class(name: str, method: str, fields: set[str]) -> Iterator[tuple[str, set[str]]]:
    for tree in MODULES.values():
        events = {
            ast.unparse(node.targets[0]): event
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and _function_name(node.value) == name
            for argument in node.value.args
            for event in _names(argument)
        }
        for call in _calls(tree):
            called = call.args[0] if _function_name(call) == "partial" else call.func
            if isinstance(called, ast.Attribute) and called.attr == method:
                event = events.get(ast.unparse(called.value))
                if event is not None:
                    yield event, fields | _keywords(call)


LOGGED = _logged()
DOCUMENTED = {
    name: set(_quoted(row[1]))
    for row in _rows("log-events.md")
    if len(row) == 3
    for name in _quoted(row[0])
}


def test_page_lists_the_events_that_the_code_logs() -> None:
    assert len(LOGGED) > 60
    assert set(DOCUMENTED) == set(LOGGED)


@pytest.mark.parametrize("name", sorted(LOGGED))
def test_page_lists_the_fields_of_the_event(name: str) -> None:
    event, documented = LOGGED[name], DOCUMENTED.get(name, set())
    assert event.fields <= documented
    assert event.is_open or documented <= event.fields


# Metrics


def test_page_lists_the_metrics_that_the_code_exposes() -> None:
    code = "".join(path.read_text() for path in MODULES)
    exposed = set(re.findall(r'"(streamedge_[a-z_]+)"', code))
    documented = {name for row in _rows("metrics.md") for name in _quoted(row[0])}
    assert {counter.metric for counter in Counter} <= exposed
    assert {f"{counter.metric}_total" for counter in Counter} <= documented
    assert {gauge.metric for gauge in Gauge} <= documented
    assert {name.removesuffix("_total") for name in documented if "streamedge_" in name} == exposed


@pytest.mark.parametrize("counter", Counter)
def test_page_names_the_labels_of_the_counter(counter: Counter) -> None:
    labels = {row[0]: row[1] for row in _rows("metrics.md")}
    assert _quoted(labels[f"`{counter.metric}_total`"]) == list(counter.labels)


# CloudFront's API


def test_page_lists_the_operations_that_the_api_offers() -> None:
    cells = [cell for row in _rows("cloudfront-api.md") for cell in row]
    names = [name for cell in cells for name in _quoted(cell) if re.fullmatch(r"[A-Z]\w+", name)]
    assert sorted(names) == sorted(OFFERED_OPERATIONS)


# Errors


def test_page_lists_the_status_codes_of_rtmp() -> None:
    folder = ROOT / "streamedge" / "delivery" / "rtmp"
    code = "".join(path.read_text() for path in folder.rglob("*.py"))
    sent = set(re.findall(r'"(Net(?:Stream|Connection)\.[A-Za-z.]+)"', code))
    text = (PAGES / "errors.md").read_text()
    assert len(sent) > 15
    assert set(re.findall(r"`(Net(?:Stream|Connection)\.[A-Za-z.]+)`", text)) == sent


def test_page_lists_the_statuses_that_the_edge_generates() -> None:
    folder = ROOT / "streamedge" / "delivery" / "http"
    answered = {
        argument.value
        for path in MODULES
        if path.is_relative_to(folder)
        for call in _calls(MODULES[path])
        for argument in call.args[:-1]  # the last argument is the reason
        if isinstance(argument, ast.Constant)
        and type(argument.value) is int
        and 400 <= argument.value < 600
    }
    documented = {
        int(status) for row in _rows("errors.md") for status in re.findall(r"^\d{3}", row[0])
    }
    assert len(answered) > 10
    assert answered <= documented


# Limits

KEYFRAME_SEARCH_S = KEYFRAME_SEGMENTS * VIDEO_SEGMENT_MS // 1000
LIMITS = {
    "Name of an object": f"{NAME_BYTES_MAX:,} bytes",
    "Head of a request": f"{HEAD_BYTES_MAX:,} bytes",
    "Fields of a request's head, and members of their lists": f"{HEAD_MEMBERS_MAX:,}",
    "Trailers of a request": f"{TRAILER_BYTES_MAX >> 10} KiB",
    "Open streams": f"{STREAMS_MAX}",
    "Requests that are handled, those of viewers that left included": f"{STREAMS_MAX}",
    "Fields of a head": f"{FIELDS_MAX}",
    "Decoded head": f"{HEAD_LIST_BYTES_MAX:,} bytes",
    "CONTINUATION frames of a head": f"{CONTINUATIONS_MAX}",
    "Body that the origin has not taken": f"{STREAM_WINDOW_BYTES >> 10} KiB of a request, "
    f"{CONNECTION_WINDOW_BYTES >> 20} MiB of all",
    "Streams reset by the viewer, or by its errors": f"{RESETS.at_once} at once, "
    f"{RESETS.per_s} a second",
    "SETTINGS, PING, PRIORITY_UPDATE and empty DATA": f"{CONTROLS.at_once} at once, "
    f"{CONTROLS.per_s} a second",
    "Frames that look like an attack": f"{GLITCHES.at_once} at once, {GLITCHES.per_s} a second",
    "Bytes read ahead of the viewer": f"{ROUND_BYTES >> 10} KiB",
    "Requests of a connection": f"{REQUESTS_MAX:,}",
    "Object that is compressed": f"{COMPRESSED_BYTES_MAX / 1e6:g} MB",
    "Compressions at once": f"{COMPRESSIONS_MAX}",
    "Chunk of the cache": f"{CHUNK_BYTES >> 10} KiB",
    "Extent of the cache": f"{EXTENT_BYTES >> 20} MiB",
    "Running reads of one object": f"{FILLS_MAX}",
    "Extents in memory while the disk refuses writes": f"{MEMORY_EXTENTS_MAX} of",
    "Chunks of one RTMP client": f"{CHUNKS_PER_S_MAX:,} a second",
    "Plays on one RTMP stream": f"{ITEMS_MAX}",
    "Wrong signatures of one RTMP client": f"{WRONG_SIGNATURES_MAX}",
    "Samples of an MP4": f"{SAMPLES_MAX / 1e6:g} million",
    "Tracks of an MP4": f"{TRACKS_MAX}",
    "Segment of a Matroska, WebM, MPEG-TS or ADTS file": f"{SEGMENT_BYTES_MAX >> 20} MiB and "
    f"{TAGS_MAX:,} frames in {VIDEO_SEGMENT_MS // 1000} s, "
    f"without video {AUDIO_SEGMENT_MS // 1000} s",
    "Streams of such a file": f"{CONTAINER_STREAMS_MAX}",
    "Search for a keyframe before a time in such a file": f"{KEYFRAME_SEARCH_S // 60} minutes",
    "Signatures that a worker remembers": f"{SIGNATURES_MAX:,}",
    "Text in a log line": f"{FIELD_CHARACTERS_MAX:,} characters",
    "List in a log line": f"{FIELD_ITEMS_MAX} items",
    "Labels of one metric": f"{LABELS_MAX}",
}


@pytest.mark.parametrize("what", LIMITS)
def test_page_has_the_limit_of_the_code(what: str) -> None:
    rows = {row[0]: row[1] for row in _rows("limits.md")}
    assert rows[what].startswith(LIMITS[what])


# Names of the reference pages on all other pages

OTHER_PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "get-started.md",
    *(
        page
        for folder in ("guides", "operations", "security")
        for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
OTHER_PRODUCTS = {"aws_cloudfront_distribution"}  # Terraform's


def _config_keys() -> set[str]:
    """The keys as the reference writes them, such as ``limits.url`` and ``origins.NAME.host``."""
    return {key for row in _rows("config.md") for key in _quoted(row[0])}


def _reference_names() -> set[str]:
    """The last parts of keys, the log's events and fields, metrics, and kinds of errors."""
    keys = {re.split(r"[.\]]", key)[-1] for key in _config_keys()}
    kinds = (PAGES / "metrics.md").read_text().partition("## Kinds of errors")[2]
    metrics = {name for row in _rows("metrics.md") for name in _quoted(row[0])}
    return keys | set(LOGGED).union(*DOCUMENTED.values()) | metrics | set(_quoted(kinds))


@pytest.mark.parametrize("page", OTHER_PAGES, ids=lambda page: page.name)
def test_keys_events_and_metrics_of_the_page_are_in_the_reference(page: Path) -> None:
    names = {
        name for name in _quoted(page.read_text()) if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name)
    }
    assert names - _reference_names() - OTHER_PRODUCTS == set()


@pytest.mark.parametrize("page", OTHER_PAGES, ids=lambda page: page.name)
def test_dotted_keys_of_the_page_are_in_the_reference(page: Path) -> None:
    tables = {key.partition(".")[0] for key in _config_keys() if "." in key}
    names = {
        name
        for name in _quoted(page.read_text())
        if re.fullmatch(r"[a-z_]+(\.[A-Za-z_]+)+", name) and name.partition(".")[0] in tables
    }
    files = {name for name in names if name.endswith((".db", ".toml"))}
    assert names - files - _config_keys() == set()
