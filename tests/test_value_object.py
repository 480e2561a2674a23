"""Value objects: equality, hash, copies and fields."""

from __future__ import annotations

from dataclasses import field, replace

import pytest

from streamedge.value_object import value_object


@value_object
class Point:
    x: int
    y: int = 0
    names: tuple[str, ...] = field(default_factory=tuple)


def test_equal_fields_make_equal_values_with_one_hash() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert {Point(1, 2): "here"}[Point(1, 2)] == "here"
    assert Point(1, 2) != Point(2, 1)


def test_replace_copies_a_value() -> None:
    point = Point(1, 2, ("a",))
    assert replace(point, y=3) == Point(1, 3, ("a",))
    assert point == Point(1, 2, ("a",))


def test_value_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        setattr(Point(1), "z", 3)  # noqa: B010 - mypy knows that there is no such field
