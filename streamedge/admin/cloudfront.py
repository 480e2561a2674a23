"""CloudFront's API on the admin address.

The handlers and their imports are loaded, in a thread, at the first call that a key of the config
has signed, so other edges start without them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from starlette.routing import Route

from streamedge.api.app import ApiSettings, api_routes
from streamedge.api.protocol.service import Handlers
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ControlLog
from streamedge.control.position import epoch_of
from streamedge.control.resources import SharedChanges
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.ops.log import Log


def cloudfront_routes(
    database: ControlDatabase,
    from_file: Callable[[], Config],
    invalidation_feed: InvalidationFeed,
    log: Log,
    shared_changes: SharedChanges | None = None,
    edge: str = "",
    is_completed: Callable[[int, float], bool] | None = None,
) -> list[Route]:
    """The routes under ``/2020-05-31/``; ``from_file`` returns the config file as last applied.

    The response to a change waits until all running workers have applied it, or for the timeout.
    ``shared_changes``, ``edge`` (its name) and ``is_completed`` (see
    ``api.operations.invalidations``): of an edge in a fleet.
    """
    rows = ControlLog(database)

    def announce() -> None:
        position = rows.position()
        invalidation_feed.publish(position)
        if not invalidation_feed.wait_applied(position):
            log.event("config_apply_timeout", epoch=epoch_of(position))

    @cache
    def handlers() -> Handlers:
        from streamedge.api.operations.handlers import api_handlers  # noqa: PLC0415  # most edges have no API key

        return api_handlers(database, from_file, announce, shared_changes, edge, is_completed)

    return api_routes(handlers, lambda: _settings(from_file()), log)


def _settings(config: Config) -> ApiSettings:
    keys = {key_id: secret.get_secret_value() for key_id, secret in config.api.keys.items()}
    return ApiSettings(keys, config.limits.api_body)
