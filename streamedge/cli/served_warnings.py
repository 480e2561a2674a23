"""Warns of origins whose folder has files of the edge itself, which viewers would get."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from streamedge.config.schema.config import Config, DirectoryOriginConfig


def served_warnings(config: Config, file: Path) -> Iterator[str]:
    """A warning for each such origin; ``file`` is the config file."""
    private = {"this config file": file, "edge.cache": config.edge.cache}
    if isinstance(config.edge.log, Path):
        private["edge.log"] = config.edge.log
    for name, origin in config.origins.items():
        if not isinstance(origin, DirectoryOriginConfig):
            continue
        served = f"{os.path.realpath(origin.path)}/{origin.prefix}"
        inside = [
            key for key, path in private.items() if f"{os.path.realpath(path)}/".startswith(served)
        ]
        if inside:
            text = f"viewers can get {', '.join(inside)}, which origins.{name}.path contains"
            yield f"{text}: give the origin a folder of its own"
