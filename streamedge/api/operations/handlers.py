"""The table of all operations that this edge offers."""

from __future__ import annotations

from collections.abc import Callable

from streamedge.api.errors import ApiError
from streamedge.api.operations.access_controls import access_control_handlers
from streamedge.api.operations.distribution_searches import distribution_search_handlers
from streamedge.api.operations.distributions import distribution_handlers
from streamedge.api.operations.identities import identity_handlers
from streamedge.api.operations.invalidations import (
    IsCompleted,
    invalidation_handlers,
)
from streamedge.api.operations.keys import key_handlers
from streamedge.api.operations.policies import policy_handlers
from streamedge.api.operations.streaming import streaming_handlers
from streamedge.api.operations.tagging import tagging_handlers
from streamedge.api.protocol.service import Call, Handler, Handlers, Output
from streamedge.api.transactions import Resources
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ControlLog
from streamedge.control.resources import (
    ConflictError,
    ResourceStore,
    SharedChanges,
    UnavailableError,
)

ATTEMPTS_MAX = 5  # of an operation, where other edges change resources at the same time


def api_handlers(
    database: ControlDatabase,
    from_file: Callable[[], Config],
    announce: Callable[[], None],
    shared_changes: SharedChanges | None = None,
    edge: str = "",
    is_completed: IsCompleted | None = None,
) -> Handlers:
    """The handlers by the names of CloudFront's operations.

    ``from_file`` returns the config file as last applied. ``announce`` is called in the caller's
    thread after each change and invalidation, when it is on disk; the call ends when it returns.
    In a fleet ``shared_changes`` orders the changes of all edges, ``edge`` is this one's name, and
    ``is_completed`` looks whether all edges have applied an invalidation.
    """
    resources = Resources(ResourceStore(database, shared_changes), from_file, announce)
    log = ControlLog(database, items_kept=from_file().limits.invalidations, edge=edge)
    handlers = {
        **distribution_handlers(resources),
        **streaming_handlers(resources),
        **policy_handlers(resources),
        **access_control_handlers(resources),
        **identity_handlers(resources),
        **distribution_search_handlers(resources),
        **key_handlers(resources),
        **invalidation_handlers(resources, log, announce, is_completed),
        **tagging_handlers(resources),
    }
    if shared_changes is None:
        return handlers
    return {name: _repeated(handler) for name, handler in handlers.items()}


def _repeated(handler: Handler) -> Handler:
    """An operation that is run again on fresh resources if another edge has changed them."""

    def run(call: Call) -> Output:
        for _attempt in range(ATTEMPTS_MAX):
            try:
                return handler(call)
            except ConflictError:
                continue
            except UnavailableError as exc:
                raise ApiError("ServiceUnavailable", str(exc)) from exc
        raise ApiError(
            "ServiceUnavailable",
            f"other edges changed resources during {ATTEMPTS_MAX} attempts: nothing was changed;"
            " try again",
        )

    return run
