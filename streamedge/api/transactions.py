"""Reads and changes of resources for the API's operations.

A change is one transaction: it is translated to a config before it is committed, refused where a
resource of the API could no longer be applied, and announced when it is on disk. So workers never
get a document that they cannot apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamedge.api.documents.inventory import Inventory, inventory_of
from streamedge.api.to_config.translation import combine
from streamedge.config.schema.config import Config, WebDistributionConfig
from streamedge.control.resources import Kind, Resource, ResourceStore, ResourceTransaction


class Transaction:
    """A change under way. ``before`` is what there was when it began."""

    def __init__(self, from_file: Config, change: ResourceTransaction) -> None:
        self._from_file = from_file
        self._change = change
        self._resources = {(one.kind, one.id): one for one in change.resources()}
        self.before = inventory_of(from_file, self._resources.values())
        self._changed: set[tuple[Kind, str]] = set()

    @property
    def after(self) -> Inventory:
        """What there is with what was changed up to now."""
        return inventory_of(self._from_file, self._resources.values())

    def put(self, resource: Resource) -> None:
        """Makes or replaces ``resource``."""
        self._change.put(resource)
        self._resources[resource.kind, resource.id] = resource
        self._changed.add((resource.kind, resource.id))

    def remove(self, resource: Resource) -> None:
        """Removes ``resource``."""
        self._change.remove(resource)
        del self._resources[resource.kind, resource.id]
        self._changed.add((resource.kind, resource.id))

    def check(self) -> None:
        """Raises ApiError where what was changed, or what else was in force, could not be."""
        problems = combine(self._from_file, self._resources.values()).problems
        if not problems:
            return
        resources = (one for held in self.before.from_api.values() for one in held.values())
        known = {(one.kind, one.id) for one in combine(self._from_file, resources).problems}
        for problem in problems:
            if (problem.kind, problem.id) in self._changed or (
                (problem.kind, problem.id) not in known
            ):
                raise problem.error


class Resources:
    """``from_file`` gives the config file's content as it is in force; ``announce`` is called after
    each change, in the caller's thread, and returns when it has taken effect."""

    def __init__(
        self, store: ResourceStore, from_file: Callable[[], Config], announce: Callable[[], None]
    ) -> None:
        self._store = store
        self._from_file = from_file
        self._announce = announce

    def inventory(self) -> Inventory:
        """What there is. Raises ControlError."""
        return inventory_of(self._from_file(), self._store.resources())

    def has_distribution(self, identifier: str) -> bool:
        """Whether there is a distribution of either kind, at a cost that does not grow."""
        return any(one.id == identifier for one in self._from_file().distributions) or any(
            self._store.has(kind, identifier)
            for kind in (Kind.DISTRIBUTION, Kind.STREAMING_DISTRIBUTION)
        )

    def root_object(self, identifier: str) -> str:
        """The object that "/" means in a distribution; "" where it means none."""
        config = combine(self._from_file(), self._store.resources()).config
        found = (one for one in config.distributions if one.id == identifier)
        return next(
            (one.default_root_object for one in found if isinstance(one, WebDistributionConfig)), ""
        )

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """One change, in force when the block has ended; none where it raises.

        Raises ApiError for what could not be applied, ControlError.
        """
        with self._store.change() as change:
            transaction = Transaction(self._from_file(), change)
            yield transaction
            if not change.changed:
                return
            transaction.check()
        self._announce()
