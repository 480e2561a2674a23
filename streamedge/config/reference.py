"""The tables of docs/reference/config.md, generated from the schema.

``python -m streamedge.config.reference`` prints the text between the markers of that page.
``describe`` has the words; this module has the layout.
"""

from __future__ import annotations

import sys

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


def _table(header: str, name: str, section: type[Section]) -> str:
    rows = [
        f"## `{header}`",
        "",
        "| Key | Type | Default | Limits | Reload | Meaning |",
        "|---|---|---|---|---|---|",
    ]
    fields = section.model_fields.items()
    restart = restart_keys(section)
    for key, field in sorted(
        fields, key=lambda item: (item[0] != "type", not item[1].is_required())
    ):
        examples = ", ".join(f"`{example}`" for example in field.examples or ())
        meaning = field.description
        if examples:
            meaning = f"{meaning} Such as {examples}."
        standard = _standard(section, key)
        applies = "restart" if key in restart else "live"
        noun = field_notation(field).noun
        cells = (f"`{name}.{key}`", noun, standard, limits(field), applies, meaning)
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
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
