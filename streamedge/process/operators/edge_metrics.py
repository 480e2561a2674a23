"""The metrics of the edge as a whole: whether it serves, its version, config and certificates."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from streamedge.admin.health import check_health
from streamedge.coordination.shared_state import SharedState
from streamedge.process.operators.certificate_expiry import CertificateExpiry

if TYPE_CHECKING:
    from prometheus_client import Metric


def edge_metrics(
    shared: SharedState, version: str, expiries: Sequence[CertificateExpiry]
) -> Iterator[Metric]:
    """The metrics now."""
    build = GaugeMetricFamily(
        "streamedge_build_info", "Version of StreamEdge", labels=["version", "python"]
    )
    build.add_metric([version, platform.python_version()], 1)
    yield build
    health = check_health(shared.worker_status, shared.heartbeats)
    reload_s, is_success = shared.config_versions.last_reload
    values = (
        ("streamedge_ready", "Whether every worker serves", int(health.is_ready)),
        ("streamedge_start_time_seconds", "When the edge was started", shared.started_s),
        (
            "streamedge_config_reload_success",
            "Whether the config file was valid when it was read last",
            int(is_success),
        ),
        (
            "streamedge_config_reload_time_seconds",
            "When the config file was read last",
            reload_s or shared.started_s,
        ),
    )
    for name, description, value in values:
        yield GaugeMetricFamily(name, description, round(value, 3))
    expiry = GaugeMetricFamily(
        "streamedge_certificate_expiry_time_seconds",
        "When a certificate expires",
        labels=["certificate"],
    )
    for one in expiries:
        if one.expires_s is not None:
            expiry.add_metric([one.certificate], one.expires_s)
    if expiry.samples:
        yield expiry
