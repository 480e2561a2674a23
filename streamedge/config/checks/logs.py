"""Checks of access logs: the origin of a log is a folder or a bucket. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.config.errors.mistakes import (
    Mistake,
    entries,
    nearest,
    quoted_list,
    short,
    string,
    table,
)

_WRITABLE = ("directory", "s3")


def log_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """Origins of logs that do not exist, or cannot have one."""
    origins = table(document.get("origins"))
    writable = tuple(
        name for name, origin in origins.items() if table(origin).get("type") in _WRITABLE
    )
    for key, distribution in entries(document, ("distributions",)):
        name = string(table(distribution.get("log")), "origin")
        if not name or name in writable:
            continue
        if name in origins:
            text = f"{short(name)} is no folder and no bucket: a log needs an origin of type"
            text += ' "directory" or "s3"'
        else:
            choices = f"folders and buckets under [origins]: {quoted_list(writable)}"
            text = f"no origin has the name {short(name)}; {nearest(name, writable, choices)}"
        yield Mistake((*key, "log", "origin"), text)
