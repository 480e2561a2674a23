"""The table, on the terminal and in ``RESULTS.md``.

A run replaces the sections of its benchmarks and leaves the others unchanged; each section has the
date and command of its run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.servers.edge import STREAMEDGE
from bench.servers.server import Failure, Value

RESULTS = Path(__file__).with_name("RESULTS.md")
_TITLE = "# Results\n"
_INTRODUCTION = """
Written by `make bench`. Each section is one run, servers side by side on one machine; compare
within a section, not between machines. The cell of a failed measurement says "failed".
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The limit of StreamEdge's value: a maximum, or with ``at_least`` a minimum."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table: its label, its unit, and each server's value or a word."""

    label: str
    unit: str
    values: Mapping[str, Value]
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """ "yes" or "no" for a target, "" without one; "no" also without a measured value."""
        if self.target is None:
            return ""
        value = self.values.get(STREAMEDGE)
        return "yes" if isinstance(value, (int, float)) and self.target.is_met(value) else "no"


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's result. ``how`` is its method in one or two sentences."""

    benchmark: str
    how: str
    figures: Sequence[Figure]
    facts: Sequence[str] = field(default=())

    @property
    def servers(self) -> list[str]:
        """All servers measured, StreamEdge first."""
        names = dict.fromkeys(name for figure in self.figures for name in figure.values)
        return sorted(names, key=lambda name: name != STREAMEDGE)

    @property
    def failures(self) -> list[str]:
        """The reasons of cells with "failed", each once."""
        reasons = (
            f"{name} failed: {value.reason}"
            for figure in self.figures
            for name, value in figure.values.items()
            if isinstance(value, Failure)
        )
        return list(dict.fromkeys(reasons))


def ratio(values: Mapping[str, Value], peer: str) -> dict[str, Value]:
    """StreamEdge's value divided by the peer's; empty if either is missing or failed."""
    ours, theirs = values.get(STREAMEDGE), values.get(peer)
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)) and theirs:
        return {STREAMEDGE: ours / theirs}
    return {}


def show(section: Section, console: Console) -> None:
    """Prints the section's table."""
    header, rows = _cells(section)
    table = Table(
        title=section.benchmark,
        title_justify="left",
        caption="\n".join([section.how, *section.failures]),
    )
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def merge(document: str, sections: Sequence[Section]) -> str:
    """The report with ``sections`` replaced or added; other sections and the order stay."""
    parts = re.split(r"(?m)^(?=## )", document)
    sections_by_name = {
        part[3:].partition("\n")[0].strip(): part for part in parts if part.startswith("## ")
    }
    sections_by_name.update({section.benchmark: _markdown(section) for section in sections})
    return "\n".join(
        [_TITLE + _INTRODUCTION, *(part.rstrip() + "\n" for part in sections_by_name.values())]
    )


def write(sections: Sequence[Section]) -> None:
    """Updates ``RESULTS.md``."""
    document = RESULTS.read_text() if RESULTS.exists() else ""
    RESULTS.write_text(merge(document, sections))


def _markdown(section: Section) -> str:
    header, rows = _cells(section)
    lines = [f"## {section.benchmark}", "", section.how, ""]
    lines += ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "¦") for cell in row) + " |" for row in rows]
    lines += ["", *(f"- {fact}" for fact in [*section.failures, *section.facts]), ""]
    return "\n".join(lines)


def _cells(section: Section) -> tuple[list[str], list[list[str]]]:
    header = ["", *section.servers, "target", "met"]
    rows = [
        [
            f"{figure.label}, {figure.unit}" if figure.unit else figure.label,
            *(_cell(figure.values.get(name, "")) for name in section.servers),
            str(figure.target or ""),
            figure.verdict,
        ]
        for figure in section.figures
    ]
    return header, rows


def _cell(value: Value) -> str:
    if isinstance(value, Failure):
        return "failed"
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3g}"
