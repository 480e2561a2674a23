"""What commands print: tables for people and for pipes."""

from __future__ import annotations

import pytest

from streamedge.cli.admin_client import writes_tables
from streamedge.cli.output import show


def test_table_is_not_wrapped_where_the_output_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "dir/" + "a" * 300 + ".mp4"
    row: dict[str, object] = {
        "serial": 7,
        "state": "failed",
        "method": "PUT",
        "object": name,
        "origin": "films",
        "size_bytes": 5,
        "age_s": 1.0,
        "attempts": 1,
        "problem": "answered 400 KeyTooLongError",
    }
    tables = writes_tables({"rows": [row], "rows_left_off": 0})
    show([row], tables, as_json=False, ending="1 failed")
    lines = capsys.readouterr().out.splitlines()
    assert any(f"PUT {name}" in line and str(row["problem"]) in line for line in lines)
    assert lines[-1] == "1 failed"
