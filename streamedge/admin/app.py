"""The application of the admin address: all its routes, behind the checks of ``admin/access``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.admin.access.control import AccessControl
from streamedge.admin.access.login import login_routes
from streamedge.admin.access.middleware import AccessMiddleware
from streamedge.admin.access.same_origin import is_own_host
from streamedge.admin.cache import cache_routes
from streamedge.admin.fleet import FleetControl, fleet_routes
from streamedge.admin.health import check_health
from streamedge.admin.invalidations import invalidation_routes
from streamedge.admin.inventory import inventory_routes
from streamedge.admin.jobs.jobs import Jobs, job_routes
from streamedge.admin.json_errors import JSON_ERROR_HANDLERS
from streamedge.admin.log_lines import log_routes
from streamedge.admin.page import page_routes
from streamedge.admin.reload import reload_routes
from streamedge.admin.status import LiveStatus, status_routes
from streamedge.admin.upgrade import upgrade_routes
from streamedge.admin.viewers import LiveViewers, viewers_routes
from streamedge.admin.writes import writes_routes
from streamedge.config.schema.config import Config, WebDistributionConfig
from streamedge.config.schema.units import without_password
from streamedge.control.log import ControlLog
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.media.posters import Posters
from streamedge.ops.log import Log
from streamedge.ops.metrics import MetricSource
from streamedge.write_back.queue import WriteQueue

if TYPE_CHECKING:
    from streamedge.shared_log.completion import CompletionWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorParts:
    """The parts of the control process that the operators' calls read and change.

    ``config`` is the one that the process was started with. ``origin_identities`` returns the
    identity of each origin, by name. ``fleet`` and ``completion`` are None in a fleet of one.
    """

    config: Config
    shared: SharedState
    effective: EffectiveConfig
    origin_identities: Callable[[], Mapping[str, str]]
    control_log: ControlLog
    invalidation_feed: InvalidationFeed
    change_event: ChangeEvent
    status: LiveStatus
    viewers: LiveViewers
    posters: Posters
    jobs: Jobs
    fleet: FleetControl | None
    completion: CompletionWatch | None
    log: Log


def operator_routes(parts: OperatorParts) -> list[Route]:
    """The operators' calls and page, without those that ``create_admin_app`` adds."""
    config, effective, log = parts.config, parts.effective, parts.log
    return [
        *page_routes(),
        *inventory_routes(lambda: effective.config, lambda: effective.from_file),
        *log_routes(config.edge.log, lambda: parts.status.is_closed),
        *status_routes(parts.status),
        *viewers_routes(parts.viewers, log),
        *job_routes(parts.jobs),
        *cache_routes(
            config.edge.cache,
            parts.origin_identities,
            lambda: effective.config,
            parts.posters,
            log,
        ),
        *reload_routes(parts.shared, parts.change_event),
        *upgrade_routes(parts.shared),
        *fleet_routes(parts.fleet, without_password(config.fleet.engine)),
        *invalidation_routes(
            parts.control_log,
            parts.invalidation_feed,
            parts.change_event,
            lambda: _root_objects(effective.config),
            parts.completion,
        ),
    ]


def _root_objects(config: Config) -> dict[str, str]:
    """The root objects of all distributions, by id."""
    return {
        section.id: section.default_root_object
        if isinstance(section, WebDistributionConfig)
        else ""
        for section in config.distributions
    }


def create_admin_app(
    edge_name: str,
    shared: SharedState,
    access: AccessControl,
    write_queue: WriteQueue | None = None,
    routes: Sequence[Route] = (),
    is_own: Callable[[str], bool] = lambda host: is_own_host(host, {"localhost"}),
    more_metrics: MetricSource | None = None,
) -> Starlette:
    """The application of the admin address; ``write_queue`` is None if no behavior writes back.

    ``routes`` are further routes.
    ``is_own``: whether a Host is a name of this edge. ``more_metrics`` are those that only this
    process has; None: those of the heartbeats.
    """

    def healthz(_request: Request) -> Response:
        health = check_health(shared.worker_status, shared.heartbeats)
        body = {"edge": edge_name, "ready": health.is_ready, "workers": health.workers}
        if health.problems:
            body["problems"] = health.problems
        return JSONResponse(body, 200 if health.is_ready else 503)

    def metrics(_request: Request) -> Response:
        text = shared.metrics.exposition((more_metrics or shared.heartbeats.metrics)())
        return Response(text, media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            *login_routes(access, edge_name),
            *writes_routes(write_queue),
            *routes,
        ],
        middleware=[Middleware(AccessMiddleware, access=access, is_own=is_own)],
        exception_handlers=JSON_ERROR_HANDLERS,
    )
