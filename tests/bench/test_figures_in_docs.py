"""The figures in the documents are those of RESULTS.md."""

from __future__ import annotations

import re
from pathlib import Path

from bench.fleet.simulation import SIZES

ROOT = Path(__file__).parents[2]


def results(name: str) -> dict[str, float]:
    """StreamEdge's figures of a benchmark, by their labels."""
    text = (ROOT / "bench" / "RESULTS.md").read_text()
    _, mark, section = text.partition(f"\n## {name}\n")
    assert mark, f"bench/RESULTS.md has no section {name}"
    rows = re.findall(r"(?m)^\| (.+?), ms \| ([\d.,]+) \|", section.partition("\n## ")[0])
    return {label: float(value.replace(",", "")) for label, value in rows}


def test_table_of_simulated_fleets_has_the_benchmarks_figures() -> None:
    text = (ROOT / "docs" / "operations" / "shared-log.md").read_text()
    table = text.partition("<!-- checked: simulated fleets -->\n")[2].partition("\n\n")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]
    figures = results("fleet-simulation")
    columns = [
        f"{{}}{loss}: {what}"
        for loss in ("", ", 1% loss")
        for what in ("in effect on all", "Completed")
    ]
    assert rows == [
        [
            f"{size:,}",
            *(
                ", ".join(
                    str(round(figures[f"{column.format(f'{size:,} edges')}, {percentile}"]))
                    for percentile in ("P50", "P99")
                )
                for column in columns
            ),
        ]
        for size in SIZES
    ]
