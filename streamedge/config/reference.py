"""The tables of docs/reference/config.md, generated from the schema.

``python -m streamedge.config.reference`` prints the text between the markers of that page.
``describe`` has the words; this module has the layout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from streamedge.config.describe import (
    default,
    field_notation,
    is_inherited,
    limits,
    restart_keys,
    sections,
)
from streamedge.config.schema.config import Section

BEGIN = "<!-- config reference: begin -->"
END = "<!-- config reference: end -->"


def render() -> str:
    """All keys as Markdown: a heading and a table for each kind of section."""
    return "\n".join(_table(header, name, section) for header, name, section in sections())


def keys() -> list[str]:
    """The dotted name of every key, such as ``"origins.NAME.region"``, each once."""
    names = (f"{name}.{key}" for _, name, section in sections() for key in section.model_fields)
    return list(dict.fromkeys(names))


def entries() -> Iterator[dict[str, str]]:
    """Every key with its type, default, limits, whether a reload applies it, and its meaning."""
    for _header, name, section in sections():
        yield from _entries(name, section)


def _entries(name: str, section: type[Section]) -> Iterator[dict[str, str]]:
    restart = restart_keys(section)
    for key, field in sorted(
        section.model_fields.items(),
        key=lambda item: (item[0] != "type", not item[1].is_required()),
    ):
        examples = ", ".join(f"`{example}`" for example in field.examples or ())
        meaning = field.description or ""
        if examples:
            meaning = f"{meaning} Such as {examples}."
        yield {
            "key": f"{name}.{key}",
            "type": field_notation(field).noun,
            "default": _standard(section, key),
            "limits": limits(field),
            "reload": "restart" if key in restart else "live",
            "meaning": meaning,
        }


def _table(header: str, name: str, section: type[Section]) -> str:
    rows = [
        f"## `{header}`",
        "",
        "| Key | Type | Default | Limits | Reload | Meaning |",
        "|---|---|---|---|---|---|",
    ]
    for entry in _entries(name, section):
        cells = {**entry, "key": f"`{entry['key']}`"}.values()
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _standard(section: type[Section], key: str) -> str:
    """The value if ``key`` is omitted."""
    field = section.model_fields[key]
    if is_inherited(section, key):
        return "the distribution's"
    if field.is_required():
        return "required"
    return f"`{default(field)}`" if default(field) else "none"


if __name__ == "__main__":
    sys.stdout.write(render())
