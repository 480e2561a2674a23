"""A callback that does nothing."""

from __future__ import annotations


def do_nothing(*_args: object) -> None:
    """In place of a callback: of an owner that has gone, or where none is needed.

    An object that replaces its owner's callbacks by it keeps the owner alive no longer.
    """
