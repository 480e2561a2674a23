"""A process that makes changes in a loop: a program for ``test_registry.py``.

    resource_process.py FOLDER

Says a line of JSON for each change that is acknowledged: the resource as it then is.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from streamedge.control.database import ControlDatabase
from streamedge.control.resources import Kind, Resource, ResourceStore

RESOURCES = 5


def change_for_ever(folder: Path) -> None:
    registry = ResourceStore(ControlDatabase(folder))
    for number in itertools.count():
        made = resource(number)
        with registry.change() as change:
            change.put(made)
        sys.stdout.write(json.dumps({"id": made.id, "number": number}) + "\n")
        sys.stdout.flush()


def resource(number: int) -> Resource:
    identifier = f"E{number % RESOURCES}"
    document = {"number": number, "filling": "x" * (number * 997 % 20_000)}
    etag = f"etag-{number}"
    return Resource(Kind.DISTRIBUTION, identifier, etag, identifier, document, 1.0, float(number))


if __name__ == "__main__":
    change_for_ever(Path(sys.argv[1]))
