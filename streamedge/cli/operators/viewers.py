"""The table of ``streamedge viewers``: the viewers of the running edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from streamedge.cli.operators.status import rate


def viewers_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The rows of ``GET /viewers`` as a table; no table if there are none."""
    if not document["rows"]:
        return
    table = Table(title_justify="left", title="Viewers")
    for column in ("Id", "Protocol", "Address", "Object", "State", "Position"):
        table.add_column(column, overflow="fold")
    for column in ("Rate", "Sent", "For"):
        table.add_column(column, justify="right")
    table.add_column("Agent", overflow="ellipsis", no_wrap=True, max_width=30)
    for row in document["rows"]:
        country = f" ({row['country']})" if row["country"] else ""
        table.add_row(
            row["id"],
            row["protocol"],
            f"{row['address']}{country}",
            printable(f"{row['distribution']} {row['object']}"),
            f"{row['state']}, retiring worker" if row["retiring"] else row["state"],
            "" if row["position_s"] is None else duration(row["position_s"]),
            rate(row["rate"]),
            decimal(row["sent_bytes"]),
            duration(row["age_s"]),
            printable(row["agent"]),
        )
    yield table


def viewers_summary(document: Mapping[str, Any]) -> str:
    """The counts of ``GET /viewers`` in one line."""
    hidden = document["matching"] - len(document["rows"])
    more = f"; {hidden} more match: raise --limit" if hidden else ""
    return f"{document['rtmp']} over RTMP, {document['http']} over HTTP{more}."


def printable(text: str) -> str:
    """A viewer's text without control characters, which a terminal would obey."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=int(seconds)))
