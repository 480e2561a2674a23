"""The tables of ``streamedge status``: what the running edge does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow"}
STATE_STYLES = {"up": "green", "down": "bold red"}
_DAY_S = 86_400


def has_critical(document: Mapping[str, Any]) -> bool:
    """Whether a critical alert fires."""
    return any(alert["severity"] == "critical" for alert in document["alerts"])


def status_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a status; those without rows are left out."""
    yield _summary(document)
    for table in (_alerts(document), _origins(document), _distributions(document)):
        if table.row_count:
            yield table
    certificates = _certificates(document)
    if certificates.row_count:
        yield certificates


def _summary(document: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", title=f"Edge {document['edge']}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    is_ready = document["ready"]
    serves = Text("yes", "green") if is_ready else Text("no", "bold red")
    up_s = max(0.0, document["time_s"] - document["started_s"])
    rows: list[tuple[str, RenderableType]] = [
        ("Serves", serves),
        ("Workers", str(document["workers"])),
        ("Runs for", str(timedelta(seconds=int(up_s)))),
        ("Version", document["version"] or "unknown"),
        *(("Problem", Text(problem, "bold red")) for problem in document["problems"]),
        *traffic(document),
    ]
    fleet = document.get("fleet")
    if fleet:
        rows.append(("Fleet", f"{fleet['state']}, {len(fleet['edges'])} edges"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def traffic(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of the traffic."""
    rates, viewers = document["rates"] or {}, document["viewers"]
    yield "HTTP", f"{rates.get('requests', 0):.0f} requests/s, {rate(rates.get('http_bytes', 0))}"
    http = "" if viewers["http"] is None else f"{viewers['http']} HTTP, "
    yield (
        "Viewers",
        f"{viewers['rtmp']} RTMP, {http}{viewers['http_connections']} HTTP connections",
    )
    yield "RTMP", rate(rates.get("rtmp_bytes", 0))
    yield "From origins", rate(rates.get("origin_bytes", 0))
    ratio = document["hit_ratio"]
    yield (
        "Hit ratio",
        f"{percent(ratio['requests'])} of requests, {percent(ratio['bytes'])} of bytes",
    )
    cache = document["cache"]
    yield "Cache", f"{decimal(cache['used_bytes'])} of {decimal(cache['limit_bytes'])}"
    writes = document["writes"]
    if writes["queued"] or writes["dead_letters"]:
        yield "Writes", f"{writes['queued']} queued, {writes['dead_letters']} dead letters"


def _alerts(document: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", title="Alerts")
    for column in ("Alert", "For", "Since", "What to do"):
        table.add_column(column, overflow="fold")
    for alert in document["alerts"]:
        style = SEVERITY_STYLES.get(alert["severity"], "")
        table.add_row(
            Text(alert["name"], style),
            ", ".join(f"{name} {value}" for name, value in alert["labels"].items()),
            since(alert["since_s"], document["time_s"]),
            f"{alert['summary']} {alert['advice']}",
        )
    return table


def _origins(document: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", title="Origins")
    for column in ("Origin", "Type", "State", "Circuit breakers"):
        table.add_column(column, overflow="fold")
    for origin in document["origins"]:
        state = origin["state"] or "not used yet"
        breakers = ", ".join(f"{group} {one}" for group, one in origin["breakers"].items())
        table.add_row(
            origin["name"], origin["type"], Text(state, STATE_STYLES.get(state, "")), breakers
        )
    return table


def _distributions(document: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", title="Distributions, in the last minute")
    table.add_column("Distribution")
    for column in ("Requests/s", "Hits", "Bytes", "Plays/s"):
        table.add_column(column, justify="right")
    for row in document["distributions"]:
        hits = row["hits"] / row["requests"] if row["requests"] else None
        table.add_row(
            row["id"],
            f"{row['requests']:.1f}",
            percent(hits),
            rate(row["bytes"]),
            f"{row['plays']:.2f}",
        )
    return table


def _certificates(document: Mapping[str, Any]) -> Table:
    table = Table(title_justify="left", title="Certificates")
    for column in ("Names", "Days left", "File"):
        table.add_column(column, overflow="fold")
    for one in document["certificates"]:
        expires_s = one["expires_s"]
        days = "" if expires_s is None else f"{(expires_s - document['time_s']) / _DAY_S:.0f}"
        table.add_row(", ".join(one["names"]) or one["problem"], days, one["certificate"])
    return table


def since(since_s: float, now_s: float) -> str:
    """A time of today as hours and minutes, else with its date."""
    form = "%H:%M:%S" if now_s - since_s < _DAY_S else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(since_s))


def rate(bytes_per_s: float) -> str:
    """Bytes a second for people."""
    return f"{decimal(int(bytes_per_s))}/s"


def percent(share: float | None) -> str:
    """A share for people; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"
