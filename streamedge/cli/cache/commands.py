"""The ``streamedge cache`` commands: what is cached, and work on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from streamedge.cli.admin_options import admin_of
from streamedge.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonResultOption,
    exit_on,
    exit_on_admin_error,
    report,
    show,
)
from streamedge.config.schema.units import parse_size_bytes
from streamedge.errors import StreamEdgeError

if TYPE_CHECKING:
    from rich.table import Table

    from streamedge.cli.admin_client import Admin

LISTED = 50  # objects of ``ls`` without --limit
EVERYTHING = 1 << 62
BAR_WIDTH = 24
_ID_CHARACTERS = 64
_BARS = {"cached": "█", "unchecked": "▒", "filling": "░"}

cache_app = typer.Typer(
    rich_markup_mode="rich",
    epilog="Example: [bold]streamedge cache ls --match '*.mp4'[/bold]. An object is named by its id"
    " or by its name at the origin, as [bold]cache ls[/bold] shows them. The edge must be running;"
    " GET /cache on its admin address has the same list as JSON.",
    no_args_is_help=True,
)

ObjectArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="OBJECT…",
        help="Ids or names, as cache ls shows them; a name is all its variants and queries.",
    ),
]
MatchOption = Annotated[
    str,
    typer.Option(metavar="TEXT", help="Only names with this text; with *, a pattern for the name."),
]
OriginOption = Annotated[str, typer.Option(metavar="NAME", help="Only objects of this origin.")]


class CacheObjectError(StreamEdgeError):
    """No cached object has the name that was given, or it could be one of several."""


@cache_app.command(
    "ls",
    epilog="Example: [bold]streamedge cache ls --origin main --match trailers/ --limit 200[/bold]."
    " In the column Map, █ is cached, ▒ is checked before its first use, ░ is being fetched.",
)
def list_objects(
    context: typer.Context,
    match: MatchOption = "",
    origin: OriginOption = "",
    limit: Annotated[int, typer.Option(min=1, help="List at most so many objects.")] = LISTED,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """List cached objects: name, size, how much of it is here, age."""
    from streamedge.cli.admin_client import session  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error(), session(admin) as caller:
        objects = list(cached_objects(caller, match, origin, limit + 1))
    more = len(objects) > limit
    del objects[limit:]
    ending = f"{len(objects)} objects" + (
        " and more: raise --limit, or use --match." if more else "."
    )
    show(objects, object_tables(objects), as_json=as_json, ending=ending)


@cache_app.command("show", epilog="Example: [bold]streamedge cache show films/trailer.mp4[/bold].")
def show_object(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="OBJECT", help="Its id or name.")],
    origin: OriginOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show one object: its version, header fields and cached ranges.

    A name may have several entries: variants, queries, and what is packaged of it.
    """
    from streamedge.cli.admin_client import call, session  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error(), exit_on(CacheObjectError), session(admin) as caller:
        entries = find_entries(caller, name, origin)
        if as_json and len(entries) > 1:
            ids = "\n".join(
                f"  {one['id']}  {one['kind']} {' '.join(one['details'])}" for one in entries
            )
            text = f"{len(entries)} entries have the name {name!a}; give an id:\n{ids}"
            raise CacheObjectError(text)
        documents = [call(caller, "GET", f"/cache/{one['id']}") for one in entries]
    show(documents[0], map(_object_table, documents), as_json=as_json)


@cache_app.command(epilog="Example: [bold]streamedge cache purge films/trailer.mp4[/bold].")
def purge(
    context: typer.Context,
    objects: ObjectArgument,
    origin: OriginOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonResultOption = False,
) -> None:
    """Remove objects from the cache of this edge, whatever distribution serves them.

    They are not served again, also where they are open, and their disk space is free.
    For all edges of a fleet, and for paths with *, use streamedge invalidate.
    """
    for name, documents in _each(context, config, objects, origin, "DELETE", ""):
        freed_bytes = sum(document["freed_bytes"] for document in documents)
        _report_each(
            name, documents, f"{name} is purged: {_size(freed_bytes)} are free.", as_json=as_json
        )


@cache_app.command(epilog="Example: [bold]streamedge cache pin films/trailer.mp4[/bold].")
def pin(
    context: typer.Context,
    objects: ObjectArgument,
    origin: OriginOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonResultOption = False,
) -> None:
    """Keep objects in the cache: eviction leaves them. It does not keep them fresh."""
    for name, documents in _each(context, config, objects, origin, "PUT", "/pin"):
        _report_each(name, documents, f"{name} is pinned.", as_json=as_json)


@cache_app.command(epilog="Example: [bold]streamedge cache unpin films/trailer.mp4[/bold].")
def unpin(
    context: typer.Context,
    objects: ObjectArgument,
    origin: OriginOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonResultOption = False,
) -> None:
    """Let eviction remove objects again."""
    for name, documents in _each(context, config, objects, origin, "DELETE", "/pin"):
        _report_each(name, documents, f"{name} is not pinned.", as_json=as_json)


@cache_app.command(
    epilog="Example: [bold]streamedge cache verify --rate 200MB[/bold]. Exit code 3 if any file was"
    " damaged; Ctrl-C cancels it."
)
def verify(
    context: typer.Context,
    rate: Annotated[
        str, typer.Option(metavar="SIZE", help="Read at most so many bytes a second.")
    ] = "64MiB",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
) -> None:
    """Read every cached byte and compare checksums; remove what is damaged."""
    from streamedge.cli.cache.jobs import exit_with, job_summary, run_job  # noqa: PLC0415

    try:
        bytes_per_s = parse_size_bytes(rate)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--rate") from exc
    admin = admin_of(context, config)
    with exit_on_admin_error():
        job = run_job(admin, {"kind": "verify", "bytes_per_s": bytes_per_s})
    typer.echo(json.dumps(job, indent=2) if as_json else job_summary(job))
    exit_with(job)


@cache_app.command(
    epilog="Example: [bold]streamedge cache export > cache.ndjson[/bold], then for instance"
    ' [bold]jq -r "select(.cached_bytes < .size_bytes) | .name" cache.ndjson[/bold].'
)
def export(
    context: typer.Context,
    match: MatchOption = "",
    origin: OriginOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Print the whole cache map: one JSON object a line."""
    from streamedge.cli.admin_client import session  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error(), session(admin) as caller:
        for one in cached_objects(caller, match, origin, EVERYTHING):
            typer.echo(json.dumps(one))


def cached_objects(admin: Admin, match: str, origin: str, limit: int) -> Iterator[dict[str, Any]]:
    """The objects of the cache map, up to ``limit``, page by page. Raises AdminError."""
    from streamedge.cli.admin_client import call  # noqa: PLC0415

    cursor: str | None = ""
    while cursor is not None and limit > 0:
        query = {"match": match, "origin": origin, "cursor": cursor, "limit": min(limit, 1000)}
        page = call(admin, "GET", f"/cache?{urlencode(query)}")
        limit -= len(page["objects"])
        yield from page["objects"]
        cursor = page["cursor"]


def find_entries(admin: Admin, name: str, origin: str) -> list[dict[str, Any]]:
    """The entries of the object with a name, or the one with an id.

    Raises AdminError; CacheObjectError if there are none, or some of several origins.
    """
    from streamedge.cli.admin_client import call  # noqa: PLC0415

    if len(name) == _ID_CHARACTERS and set(name) <= set("0123456789abcdef"):
        return [call(admin, "GET", f"/cache/{name}")]
    exact = name.lstrip("/")
    entries = [
        one
        for one in cached_objects(admin, exact, origin, EVERYTHING)
        if one["name"].lstrip("/") == exact and one["kind"] != "variants"
    ]
    if not entries:
        raise CacheObjectError(f"no cached object has the name {name!a}: see streamedge cache ls")
    # Entries without an origin are of one that the config no longer has: nothing serves them.
    entries = [one for one in entries if one["origin"]] or entries
    origins = sorted({one["origin"] or "" for one in entries})
    if len(origins) > 1:
        names = ", ".join(origins)
        raise CacheObjectError(f"{name!a} is cached of the origins {names}: choose one by --origin")
    return entries


def _each(
    context: typer.Context,
    config: Path,
    names: Iterable[str],
    origin: str,
    method: str,
    suffix: str,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Calls the edge for the entries of each object; the name and the responses."""
    from streamedge.cli.admin_client import call, session  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error(), exit_on(CacheObjectError), session(admin) as caller:
        for name in names:
            entries = find_entries(caller, name, origin)
            yield name, [call(caller, method, f"/cache/{one['id']}{suffix}") for one in entries]


def _report_each(
    name: str, documents: Iterable[dict[str, Any]], sentence: str, *, as_json: bool
) -> None:
    """Prints the responses of the edge, or the sentence about all of them."""
    if not as_json:
        typer.echo(sentence)
        return
    for document in documents:
        report({"object": name} | document, sentence, as_json=True)


def object_tables(objects: list[dict[str, Any]]) -> Iterator[Table]:
    """The objects as a table; no table if there are none."""
    from rich.table import Table  # noqa: PLC0415

    if not objects:
        return
    table = Table(title="Cache", title_justify="left", title_style="bold")
    table.add_column("Object", overflow="fold")
    for column in ("Origin", "Kind"):
        table.add_column(column)
    for column in ("Size", "Here"):
        table.add_column(column, justify="right")
    for column in ("Map", "Age", "Pinned"):
        table.add_column(column)
    for one in objects:
        table.add_row(
            one["name"],
            one["origin"] or "-",
            one["kind"],
            "?" if one["size_bytes"] is None else _size(one["size_bytes"]),
            _share(one),
            range_bar(one),
            "-" if one["age_s"] is None else str(timedelta(seconds=round(one["age_s"]))),
            "yes" if one["pinned"] else "",
        )
    yield table


def range_bar(one: Mapping[str, Any], width: int = BAR_WIDTH) -> str:
    """Which parts of an object are here, as ``width`` characters."""
    size = one["size_bytes"] or max((end for _start, end, _state in one["ranges"]), default=0)
    if not size:
        return "·" * width
    bar = ["·"] * width
    for start, end, state in one["ranges"]:
        first, last = start * width // size, max(start * width // size + 1, end * width // size)
        for at in range(first, min(last, width)):
            bar[at] = _BARS[state]
    return "".join(bar)


def _object_table(document: Mapping[str, Any]) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(show_header=False)
    table.add_column("Field", no_wrap=True)
    table.add_column("Value", overflow="fold")
    used = timedelta(seconds=round(max(0.0, time.time() - document["used_s"])))
    table.add_row("Map", range_bar(document, 2 * BAR_WIDTH))
    table.add_row("Here", _share(document))
    table.add_row("Last used", f"{used} ago")
    for name, value in document.items():
        if name == "headers":
            for field, text in value.items():
                table.add_row(field, text.replace("\n", "; "))
        elif name not in {"ranges", "ranges_left_off", "used_s"} and value not in (None, [], False):
            table.add_row(
                name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return table


def _share(one: Mapping[str, Any]) -> str:
    if one["size_bytes"]:
        return f"{one['cached_bytes'] / one['size_bytes']:.0%}"
    return _size(one["cached_bytes"])


def _size(size_bytes: int) -> str:
    from rich.filesize import decimal  # noqa: PLC0415

    return decimal(size_bytes)
