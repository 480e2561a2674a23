"""What operators see of the edge: the metrics, the status and the alerts of the control process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from streamedge.admin.fleet import fleet_document
from streamedge.admin.status import SAMPLE_INTERVAL_S, LiveStatus
from streamedge.admin.viewers import LiveViewers
from streamedge.config.schema.config import Config
from streamedge.config.schema.units import without_password
from streamedge.coordination.shared_state import SharedState
from streamedge.ops.alerts import Alert, Alerts
from streamedge.ops.background import Services
from streamedge.ops.log import Log
from streamedge.ops.metrics import MetricSource, State, label_values
from streamedge.origin.health import DOWN, TRIAL, UP
from streamedge.process.operators.certificate_expiry import CertificateExpiries

if TYPE_CHECKING:
    from prometheus_client import Metric

    from streamedge.process.fleet.parts import FleetParts

ALERTS_INTERVAL_S = 2.0
STATES = {UP: "up", TRIAL: "trial", DOWN: "down"}
BREAKERS = {UP: "closed", TRIAL: "half_open", DOWN: "open"}


class Monitoring:
    """``config`` returns the config in use. ``viewers`` are counted while a stream is open.

    ``more_metrics``: those of further parts of this process; they may be added at any time.
    """

    def __init__(
        self,
        shared: SharedState,
        config: Callable[[], Config],
        fleet: FleetParts | None,
        viewers: LiveViewers,
        log: Log,
    ) -> None:
        self._shared = shared
        self._config = config
        self._fleet = fleet
        self._log = log
        self._expiries = CertificateExpiries(config)
        self._alerts = Alerts()
        self._firing: list[Alert] = []
        self.more_metrics: list[MetricSource] = [] if fleet is None else [fleet.metrics]
        self.status = LiveStatus(
            config().edge.name,
            shared,
            {
                "origins": self._origins,
                "certificates": lambda: [asdict(one) for one in self._expiries.all],
                "fleet": self._fleet_document,
                "alerts": lambda: [alert_members(alert) for alert in self._firing],
            },
            viewers,
        )

    def start(self, services: Services) -> None:
        """Starts to sample the metrics, to evaluate the alerts and to read the certificates."""
        services.start_periodic("status", SAMPLE_INTERVAL_S, self.status.sample)
        services.start_periodic("alerts", ALERTS_INTERVAL_S, self.evaluate)
        services.start("certificate_expiry", self._expiries.run)

    def metrics(self) -> Iterator[Metric]:
        """The metrics that only this process has."""
        from streamedge.process.operators.edge_metrics import edge_metrics  # noqa: PLC0415  # after the start

        yield from self._shared.heartbeats.metrics()
        yield from edge_metrics(self._shared, self.status.version, self._expiries.all)
        for source in self.more_metrics:
            yield from source()

    async def evaluate(self) -> None:
        """Evaluates the alerts; logs those that begin and end."""
        samples = await asyncio.to_thread(self._samples)
        firing = self._alerts.update(samples, time.time())
        before, after = _by_name(self._firing), _by_name(firing)
        for key in after.keys() - before.keys():
            self._log.event("alert_begins", **_logged(after[key]))
        for key in before.keys() - after.keys():
            self._log.event("alert_ends", **_logged(before[key]))
        self._firing = firing

    def _samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in (*self._shared.metrics.metrics(), *self.metrics()):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                samples.setdefault(sample.name, {})[labels] = sample.value
        return samples

    def _origins(self) -> list[dict[str, Any]]:
        """The config's origins; those that are down first."""
        states = self._shared.metrics.values().states
        health = states.get(State.ORIGIN.metric, {})
        breakers: dict[str, dict[str, str]] = {}
        for label, value in states.get(State.BREAKER.metric, {}).items():
            group, origin = label_values(label)
            breakers.setdefault(origin, {})[group] = BREAKERS[value]
        rows = [
            {
                "name": name,
                "type": section.type,
                "state": STATES[health[name]] if name in health else None,
                "breakers": breakers.get(name, {}),
            }
            for name, section in self._config().origins.items()
        ]
        return sorted(rows, key=lambda row: (row["state"] != STATES[DOWN], row["name"]))

    def _fleet_document(self) -> object:
        if self._fleet is None:
            return None
        return fleet_document(self._fleet, without_password(self._config().fleet.engine))


def alert_members(alert: Alert) -> dict[str, Any]:
    """An alert as JSON."""
    return {
        "name": alert.rule.name,
        "severity": alert.rule.severity.value,
        "summary": alert.rule.summary,
        "advice": alert.rule.advice,
        "labels": dict(alert.labels),
        "value": round(alert.value, 4),
        "since_s": round(alert.since_s, 3),
    }


def _by_name(alerts: list[Alert]) -> Mapping[tuple[str, object], Alert]:
    return {(alert.rule.name, alert.labels): alert for alert in alerts}


def _logged(alert: Alert) -> dict[str, Any]:
    labels = [f"{name}={value}" for name, value in alert.labels]
    return {"alert": alert.rule.name, "severity": alert.rule.severity.value, "labels": labels}
