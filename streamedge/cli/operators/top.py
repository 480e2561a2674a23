"""``streamedge top``: the status and the busiest viewers, again and again, on a terminal.

The viewers are read again when the edge says so, the status for each frame.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamedge.cli.admin_client import Admin, call, session
from streamedge.cli.operators.status import SEVERITY_STYLES, STATE_STYLES, traffic
from streamedge.cli.operators.viewers import viewers_tables

ROWS_MAX = 100
LINES_BESIDES = 12  # of the terminal, that are not rows of viewers


def show_top(admin: Admin, interval_s: float, count: int) -> None:
    """Shows ``count`` frames, or frames until Ctrl-C. Raises AdminError."""
    console = Console(markup=False, highlight=False)
    rows = max(1, min(ROWS_MAX, console.height - LINES_BESIDES))

    def frames(caller: Admin) -> Iterator[RenderableType]:
        viewers: Mapping[str, Any] = {}
        next_look_s = -math.inf
        while True:
            status = call(caller, "GET", "/status")
            if time.monotonic() >= next_look_s:
                viewers = call(caller, "GET", f"/viewers?limit={rows}")
                # An edge that has not been upgraded yet does not say.
                next_look_s = time.monotonic() + viewers.get("next_look_s", interval_s)
            yield frame(status, viewers)

    # On a terminal each frame takes the place of the one before; else they follow each other.
    live = Live(console=console, auto_refresh=False, screen=console.is_terminal)
    with session(admin) as caller, contextlib.suppress(KeyboardInterrupt), live:
        for number, one in enumerate(frames(caller), 1):
            if console.is_terminal:
                live.update(one, refresh=True)
            else:
                console.print(one)
            if number == count:
                break
            time.sleep(interval_s)


def frame(status: Mapping[str, Any], viewers: Mapping[str, Any]) -> RenderableType:
    """What is shown of one moment."""
    head = Text(f"Edge {status['edge']}  ")
    clock = time.strftime("%H:%M:%S", time.localtime(status["time_s"]))
    head.append("serves" if status["ready"] else "does not serve", "" if status["ready"] else "red")
    head.append(f", {status['workers']} workers, {clock}")
    summary = Table.grid(padding=(0, 2))
    for name, value in traffic(status):
        summary.add_row(name, value)
    return Group(head, summary, *_origins(status), *_alerts(status), *viewers_tables(viewers))


def _origins(status: Mapping[str, Any]) -> Iterator[Text]:
    line = Text("Origins")
    for origin in status["origins"]:
        state = origin["state"] or "not used yet"
        line.append(f"  {origin['name']} ").append(state, STATE_STYLES.get(state, ""))
    yield line


def _alerts(status: Mapping[str, Any]) -> Iterator[Text]:
    for alert in status["alerts"]:
        labels = " ".join(f"{name}={value}" for name, value in alert["labels"].items())
        style = SEVERITY_STYLES.get(alert["severity"], "")
        yield Text(f"{alert['name']} {labels} {alert['summary']}", style)
