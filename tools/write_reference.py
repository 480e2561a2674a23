"""Writes the generated parts of docs/, and the rules for Prometheus.

``make reference`` runs it. Text outside the markers does not change. The rules are in
streamedge/ops/prometheus/rules.yml.
"""

from __future__ import annotations

from pathlib import Path

from streamedge.cli import reference as commands
from streamedge.config import reference as configuration
from streamedge.ops import prometheus_rules

DOCS = Path(__file__).parents[1] / "docs"


def write(page: str, begin: str, end: str, text: str) -> None:
    """Replaces the text between the markers of a page."""
    path = DOCS / page
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


if __name__ == "__main__":
    write("reference/config.md", configuration.BEGIN, configuration.END, configuration.render())
    write("reference/cli.md", commands.BEGIN, commands.END, commands.render())
    write(
        "operations/monitoring.md",
        prometheus_rules.BEGIN,
        prometheus_rules.END,
        prometheus_rules.rules_table(),
    )
    folder = prometheus_rules.FOLDER
    (folder / "rules.yml").write_text(prometheus_rules.rules_file())
    (folder / "rules_test.yml").write_text(prometheus_rules.rules_test_file())
