"""Transactions on resources for the API's operations.

A change is one transaction. Before it is committed, it is translated to a config, and it is refused
if a resource of the API could not be applied any more. It is announced when it is on disk. So
workers never get a document that they cannot apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamedge.api.documents.inventory import Inventory, inventory_of
from streamedge.api.to_config.translation import combine
from streamedge.config.schema.config import Config, WebDistributionConfig
from streamedge.control.resources import Kind, Resource, ResourceStore, ResourceTransaction


class Transaction:
    """An open transaction. ``before`` has the resources at its start."""

    def __init__(self, from_file: Config, transaction: ResourceTransaction) -> None:
        self._from_file = from_file
        self._transaction = transaction
        self._resources = {(one.kind, one.id): one for one in transaction.resources()}
        self.before = inventory_of(from_file, self._resources.values())
        self._changed: set[tuple[Kind, str]] = set()

    @property
    def after(self) -> Inventory:
        """The resources with all changes up to now."""
        return inventory_of(self._from_file, self._resources.values())

    def put(self, resource: Resource) -> None:
        """Creates or replaces ``resource``."""
        self._transaction.put(resource)
        self._resources[resource.kind, resource.id] = resource
        self._changed.add((resource.kind, resource.id))

    def remove(self, resource: Resource) -> None:
        """Removes ``resource``."""
        self._transaction.remove(resource)
        del self._resources[resource.kind, resource.id]
        self._changed.add((resource.kind, resource.id))

    def check(self) -> None:
        """Raises ApiError if a changed or an applied resource could not be applied any more."""
        problems = combine(self._from_file, self._resources.values()).problems
        if not problems:
            return
        resources = (one for kind in self.before.from_api.values() for one in kind.values())
        earlier = {(one.kind, one.id) for one in combine(self._from_file, resources).problems}
        for problem in problems:
            if (problem.kind, problem.id) in self._changed or (
                (problem.kind, problem.id) not in earlier
            ):
                raise problem.error


class Resources:
    """The resources of the API and of the config file.

    ``from_file`` returns the config file as last applied. ``announce`` is called after each change,
    in the caller's thread; it returns when the change has taken effect.
    """

    def __init__(
        self, store: ResourceStore, from_file: Callable[[], Config], announce: Callable[[], None]
    ) -> None:
        self._store = store
        self._from_file = from_file
        self._announce = announce

    def inventory(self) -> Inventory:
        """All resources now. Raises ControlError."""
        return inventory_of(self._from_file(), self._store.resources())

    def has_distribution(self, identifier: str) -> bool:
        """Whether a distribution of either kind has this id; takes constant time in the store."""
        return any(one.id == identifier for one in self._from_file().distributions) or any(
            self._store.has(kind, identifier)
            for kind in (Kind.DISTRIBUTION, Kind.STREAMING_DISTRIBUTION)
        )

    def root_object(self, identifier: str) -> str:
        """The default root object of a distribution; "" if it has none."""
        config = combine(self._from_file(), self._store.resources()).config
        matches = (one for one in config.distributions if one.id == identifier)
        return next(
            (one.default_root_object for one in matches if isinstance(one, WebDistributionConfig)),
            "",
        )

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """Opens a transaction: it has taken effect after the block, or undone if the block raises.

        Raises ApiError for a resource that could not be applied, and ControlError.
        """
        with self._store.change() as stored:
            transaction = Transaction(self._from_file(), stored)
            yield transaction
            if not stored.changed:
                return
            transaction.check()
        self._announce()
