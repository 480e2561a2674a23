"""Imports the modules that a process of the edge may need later.

Many modules are imported only when they are needed, so that the edge starts soon. An upgrade may
replace the files while the edge runs: a module that is imported after that would be of another
version than the rest of the process. So each process imports the rest when it is up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib import import_module
from pkgutil import walk_packages

import streamedge

PAUSE_S = 0.001  # between two modules: other threads of the process run meanwhile
_NOT_OF_PROCESSES = (
    "streamedge.__main__",
    "streamedge.cli",
    # Programs of their own, with a library that is an extra.
    "streamedge.media.containers.helper",
    "streamedge.media.containers.poster_helper",
)
# They bring libraries that take 25 MiB in each worker.
_NOT_OF_WORKERS = (
    "streamedge.admin",
    "streamedge.api",
    "streamedge.origin.s3",
    "streamedge.process.banner",
    "streamedge.process.control",
    "streamedge.process.fleet",
    "streamedge.process.operators.monitoring",
    "streamedge.process.start",
    "streamedge.process.supervisor",
    "streamedge.shared_log",
)


def import_all() -> None:
    """Imports what is missing; takes about half a second of a processor."""
    _import(module_names())


def import_all_of_workers() -> None:
    """As ``import_all``, without the modules that no worker uses."""
    _import(name for name in module_names() if not name.startswith(_NOT_OF_WORKERS))


def _import(names: Iterable[str]) -> None:
    for name in names:
        import_module(name)
        time.sleep(PAUSE_S)


def module_names() -> list[str]:
    """The modules that processes of the edge may use."""
    return [
        module.name
        for module in walk_packages(streamedge.__path__, "streamedge.")
        if not module.name.startswith(_NOT_OF_PROCESSES)
    ]
