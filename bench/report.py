"""The table, on the terminal and in ``RESULTS.md``.

Owns what a figure is, when a target is met, and the report's form. A run replaces the sections of
the benchmarks it ran and leaves the others as they stand, each with its own date and command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.edge import STREAMEDGE
from bench.server import Failure, Value

RESULTS = Path(__file__).with_name("RESULTS.md")
_TITLE = "# Results\n"
_INTRODUCTION = """
Written by `make bench`. Each section is one run, servers side by side on one machine; compare
within a section, not between machines. A failed measurement says so in its place.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What StreamEdge's value must be: at most ``limit``, or at least."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table: what was measured, its unit, and each server's value or a word."""

    what: str
    unit: str
    values: Mapping[str, Value]
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """ "yes" or "no" where there is a target; "no" too when nothing was measured."""
        if self.target is None:
            return ""
        value = self.values.get(STREAMEDGE)
        return "yes" if isinstance(value, (int, float)) and self.target.is_met(value) else "no"


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's outcome. ``how`` is its method in a sentence or two."""

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
        """Why cells say "failed", each reason once."""
        reasons = (
            f"{name} failed: {value.reason}"
            for figure in self.figures
            for name, value in figure.values.items()
            if isinstance(value, Failure)
        )
        return list(dict.fromkeys(reasons))


def ratio(values: Mapping[str, Value], peer: str) -> dict[str, Value]:
    """StreamEdge's value over the peer's; empty where either is missing or failed."""
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
    """The report with ``sections`` replaced or added; other sections stay, order stays."""
    parts = re.split(r"(?m)^(?=## )", document)
    kept = {part[3:].partition("\n")[0].strip(): part for part in parts if part.startswith("## ")}
    kept.update({section.benchmark: _markdown(section) for section in sections})
    return "\n".join([_TITLE + _INTRODUCTION, *(part.rstrip() + "\n" for part in kept.values())])


def write(sections: Sequence[Section]) -> None:
    """Brings ``RESULTS.md`` up to date."""
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
            f"{figure.what}, {figure.unit}" if figure.unit else figure.what,
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
