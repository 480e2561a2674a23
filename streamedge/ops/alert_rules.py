"""The rules of all alerts: one table, for ``GET /status`` and for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from streamedge.ops.metrics import Counter, Gauge, State


class Severity(Enum):
    CRITICAL = "critical"  # viewers or operators lose something now
    WARNING = "warning"


class Kind(Enum):
    """What is compared with the threshold."""

    VALUE = "value"  # the metric
    INCREASE = "increase"  # by how much a counter has risen within the window
    SHARE = "share"  # the increase of chosen labels, as a part of the increase of all
    RATIO = "ratio"  # the metric divided by another one
    TIME_LEFT = "time left"  # the metric, a time, less the present


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert.

    It fires after the condition has held for ``for_s``. ``chosen``: a label and the values that
    count, or a prefix and "*"; None: all. ``divisor``: of a RATIO. ``is_below``: the value has to
    be below the threshold, else above it. ``count_min``: a SHARE of fewer is not judged.
    ``summary``: a sentence; ``advice``: what to do.
    """

    name: str
    severity: Severity
    kind: Kind
    metric: str
    threshold: float
    summary: str
    advice: str
    for_s: int = 0
    window_s: int = 300
    is_below: bool = False
    chosen: tuple[str, tuple[str, ...]] | None = None
    divisor: str = ""
    count_min: int = 100

    def is_met(self, value: float) -> bool:
        """Whether the condition holds for a value."""
        return value < self.threshold if self.is_below else value > self.threshold


_DAY_S = 86_400
TOTAL = "_total"  # at the end of a counter's name


def _total(counter: Counter) -> str:
    return counter.metric + TOTAL


RULES = (
    Rule(
        "StreamEdgeNotReady",
        Severity.CRITICAL,
        Kind.VALUE,
        "streamedge_ready",
        1,
        "A worker of the edge does not serve.",
        "GET /healthz on the admin address lists the problems.",
        for_s=60,
        is_below=True,
    ),
    Rule(
        "StreamEdgeOriginDown",
        Severity.CRITICAL,
        Kind.VALUE,
        State.ORIGIN.metric,
        1,
        "Requests to an origin fail.",
        "Check the origin; reason of responses in the log has the failure.",
    ),
    Rule(
        "StreamEdgeServerErrors",
        Severity.WARNING,
        Kind.SHARE,
        _total(Counter.STATUSES),
        0.05,
        "More than 5 % of the HTTP responses are server errors.",
        "reason of responses in the log has the causes.",
        for_s=60,
        chosen=("status", ("5*",)),
    ),
    Rule(
        "StreamEdgeProcessEnds",
        Severity.WARNING,
        Kind.INCREASE,
        "streamedge_process_ends" + TOTAL,
        0,
        "A process has ended and was replaced.",
        "process_ended in the log has reason and stack.",
        window_s=900,
    ),
    Rule(
        "StreamEdgeProcessSilent",
        Severity.WARNING,
        Kind.VALUE,
        "streamedge_process_silent_seconds",
        5,
        "The event loop of a process does not run.",
        "Check the load of the processors and of the disk.",
    ),
    Rule(
        "StreamEdgeNoCacheFolder",
        Severity.CRITICAL,
        Kind.VALUE,
        "streamedge_cache_folder_usable",
        1,
        "A process cannot use the cache folder, and fetches objects for each viewer.",
        "cache_folder_refused in the log has the reason. edge.cache_optional is for an edge that is"
        " meant to run without a cache.",
        is_below=True,
    ),
    Rule(
        "StreamEdgeCacheTooLarge",
        Severity.WARNING,
        Kind.RATIO,
        Gauge.CACHE_BYTES.metric,
        1.1,
        "The cache uses more space than edge.cache_size allows.",
        "Files that are open or cannot be removed stay: check rights in the cache folder.",
        for_s=600,
        divisor=Gauge.CACHE_LIMIT_BYTES.metric,
    ),
    Rule(
        "StreamEdgeUnremovableFiles",
        Severity.WARNING,
        Kind.VALUE,
        Gauge.UNREMOVABLE_FILES.metric,
        0,
        "Cache files cannot be removed.",
        "cache_files_not_removed in the log names one and the reason.",
        for_s=300,
    ),
    Rule(
        "StreamEdgeCacheFull",
        Severity.CRITICAL,
        Kind.INCREASE,
        _total(Counter.ERRORS),
        0,
        "Responses failed because the cache had no space left.",
        "Free space on the disk, or lower edge.cache_size.",
        chosen=("kind", ("cache_full",)),
    ),
    Rule(
        "StreamEdgeDeadLetters",
        Severity.CRITICAL,
        Kind.VALUE,
        Gauge.DEAD_LETTERS.metric,
        0,
        "An origin has refused queued writes.",
        "streamedge writes lists them: retry or discard each.",
    ),
    Rule(
        "StreamEdgeWritesPileUp",
        Severity.WARNING,
        Kind.VALUE,
        Gauge.QUEUED_WRITES.metric,
        1000,
        "Queued writes do not reach their origin.",
        "problem in streamedge writes says why.",
        for_s=600,
    ),
    Rule(
        "StreamEdgeLateSends",
        Severity.WARNING,
        Kind.INCREASE,
        _total(Counter.LATE_SENDS),
        50,
        "RTMP viewers get media later than they are due.",
        "Check the line and the load of the processors.",
    ),
    Rule(
        "StreamEdgeLogLinesDropped",
        Severity.WARNING,
        Kind.INCREASE,
        _total(Counter.LOG_LINES_DROPPED),
        0,
        "Log lines were lost.",
        "Use a faster reader of the log, or a larger limits.log_buffer.",
    ),
    Rule(
        "StreamEdgeAccessLogsLate",
        Severity.WARNING,
        Kind.VALUE,
        Gauge.ACCESS_LOG_LAG_S.metric,
        600,
        "Access logs do not reach their origin.",
        "access_log_not_delivered in the log has the origin's error.",
    ),
    Rule(
        "StreamEdgeAccessLogLinesDropped",
        Severity.WARNING,
        Kind.INCREASE,
        _total(Counter.ACCESS_LOG_LINES_DROPPED),
        0,
        "Lines of access logs were lost.",
        "reason of the metric says why: the disk, or the origin of the logs.",
    ),
    Rule(
        "StreamEdgeDefects",
        Severity.WARNING,
        Kind.INCREASE,
        _total(Counter.ERRORS),
        0,
        "A defect has ended something that the edge did.",
        "Report the traceback in the log.",
        window_s=900,
        chosen=("kind", ("unhandled_exception", "rtmp_internal")),
    ),
    Rule(
        "StreamEdgeServiceFailures",
        Severity.WARNING,
        Kind.INCREASE,
        _total(Counter.SERVICE_FAILURES),
        0,
        "A background task has failed and was started again.",
        "service_failed in the log has the traceback.",
        window_s=900,
    ),
    Rule(
        "StreamEdgeReloadFailed",
        Severity.WARNING,
        Kind.VALUE,
        "streamedge_config_reload_success",
        1,
        "The config file has mistakes, so the edge goes on with the previous one.",
        "streamedge check lists the mistakes.",
        is_below=True,
    ),
    Rule(
        "StreamEdgeCertificateExpires",
        Severity.WARNING,
        Kind.TIME_LEFT,
        "streamedge_certificate_expiry_time_seconds",
        14 * _DAY_S,
        "A certificate expires within two weeks.",
        "Renew it; the edge reads the new files by itself.",
        is_below=True,
    ),
    Rule(
        "StreamEdgeCertificateExpired",
        Severity.CRITICAL,
        Kind.TIME_LEFT,
        "streamedge_certificate_expiry_time_seconds",
        _DAY_S,
        "A certificate expires within a day, or has expired.",
        "Renew it; the edge reads the new files by itself.",
        is_below=True,
    ),
    Rule(
        "StreamEdgeFleetEngineDown",
        Severity.CRITICAL,
        Kind.VALUE,
        "streamedge_fleet_engine_up",
        1,
        "The engine of the fleet does not answer.",
        "streamedge fleet check says why.",
        for_s=30,
        is_below=True,
    ),
    Rule(
        "StreamEdgeFleetLost",
        Severity.CRITICAL,
        Kind.VALUE,
        "streamedge_fleet_current",
        1,
        "The edge has lost its fleet, and validates each cached object.",
        "streamedge fleet shows the state of all edges.",
        for_s=30,
        is_below=True,
    ),
    Rule(
        "StreamEdgeFleetLag",
        Severity.WARNING,
        Kind.VALUE,
        "streamedge_fleet_lag_seconds",
        30,
        "The workers are behind the shared log.",
        "Check the load of the processors, and the log of the edge.",
        for_s=60,
    ),
)
