"""Imports all modules of the edge.

Many modules are imported only when they are needed, so that the edge starts soon. An upgrade may
replace the files while the edge runs: a module that is imported after that would be of another
version than the rest of the process. So each process imports the rest when it is up.
"""

from __future__ import annotations

import time
from importlib import import_module
from pkgutil import walk_packages

import streamedge

PAUSE_S = 0.001  # between two modules: other threads of the process run meanwhile
_NOT_OF_PROCESSES = ("streamedge.cli", "streamedge.__main__")


def import_all() -> None:
    """Imports what is missing; takes about half a second of a processor."""
    for name in module_names():
        import_module(name)
        time.sleep(PAUSE_S)


def module_names() -> list[str]:
    """The modules that processes of the edge may use."""
    return [
        module.name
        for module in walk_packages(streamedge.__path__, "streamedge.")
        if not module.name.startswith(_NOT_OF_PROCESSES)
    ]
