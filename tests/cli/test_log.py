"""How ``streamedge log`` prints a line."""

from __future__ import annotations

from streamedge.cli.operators.log import readable


def test_line_is_its_event_and_its_fields() -> None:
    line = {"time": 0.0, "event": "response", "process": "worker-0", "status": 200, "path": "/a b"}
    assert readable(line).endswith(' worker-0 response status=200 path="/a b"')


def test_control_characters_of_viewers_are_escaped() -> None:
    text = readable({"time": 0.0, "event": "response", "agent": "\x1b[31m\x9b\n"})
    assert text.isprintable()


def test_line_without_the_usual_fields_is_printed() -> None:
    assert readable({"a": None}).endswith(" - - a=null")
