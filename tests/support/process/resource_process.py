"""A process that changes resources in a loop: a program for ``test_resources.py``.

    resource_process.py FOLDER

Prints a line of JSON for each committed change: the resource's new state.
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
    store = ResourceStore(ControlDatabase(folder))
    for number in itertools.count():
        changed = resource(number)
        with store.change() as change:
            change.put(changed)
        sys.stdout.write(json.dumps({"id": changed.id, "number": number}) + "\n")
        sys.stdout.flush()


def resource(number: int) -> Resource:
    identifier = f"E{number % RESOURCES}"
    document = {"number": number, "filling": "x" * (number * 997 % 20_000)}
    etag = f"etag-{number}"
    return Resource(Kind.DISTRIBUTION, identifier, etag, identifier, document, 1.0, float(number))


if __name__ == "__main__":
    change_for_ever(Path(sys.argv[1]))
