"""Logs and counts responses: those of the general path, hits, and refused connections."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.fast_path.hit_log import cloudfront_hit_lines, json_hit_lines
from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.access_log import response_line
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import WebLog
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.delivery.http.response.tallies import DistributionTallies, ResponseTallies
from streamedge.delivery.http.response_reports import ResponseReports
from streamedge.delivery.http.seen_viewers import SeenViewers
from streamedge.delivery.http.viewer import Viewer
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts


class ResponseLog(ResponseReports):
    """The log lines, access logs and metrics of a worker's responses.

    ``logs_responses``: whether each response has a log line. ``viewers``: what operators see of the
    viewers, while one looks.
    """

    def __init__(self, log: Log, counts: Counts, web_log: WebLog, *, logs_responses: bool) -> None:
        self.logs_responses = logs_responses
        self.viewers: SeenViewers | None = None
        self._log = log
        self._counts = counts
        self._web_log = web_log
        self._hit_lines = partial(cloudfront_hit_lines, web_log)
        self._tallies = {result: DistributionTallies(counts, result) for result in CacheResult}
        self._sent = counts.tally(Counter.SENT_BYTES, "http")
        self._statuses = functools.cache(lambda status: counts.tally(Counter.STATUSES, str(status)))

    def finished(
        self,
        request: WebRequest,
        response: Response,
        viewer: Viewer,
        first_byte_s: float,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        end = ResponseEnd(time.time(), sent_bytes, duration_s, first_byte_s, cut)
        distribution = response.distribution or ""
        message, result = response.message, response.result
        tallies = self._count(message.status, result, sent_bytes, response.error, distribution)
        tallies.first_byte.observe(first_byte_s)
        if self.viewers is not None:
            self.viewers.add(request, distribution, sent_bytes)
        if cut is not None:
            self._counts.add(Counter.ERRORS, "response_cut")
        if self.logs_responses:
            self._log.line(
                response_line(
                    request,
                    end,
                    process=self._log.process,
                    status=message.status,
                    result=result,
                    distribution=response.distribution,
                    reason=response.reason,
                )
            )
        if self._web_log.rules:
            self._web_log.finished(request, response, viewer, end)

    def hits_finished(
        self, hits: Sequence[SentHit], duration_s: float = 0.0, cut: str | None = None
    ) -> None:
        statuses, hit_tallies = self._statuses, self._tallies[CacheResult.HIT]
        sent_bytes = 0
        for remembered, _range, status, _viewer, sent, response, _id, _start, _end in hits:
            statuses(status).amount += 1
            sent_bytes += sent
            if response is None:
                tallies = hit_tallies[remembered.distribution]
            else:
                tallies = self._tallies[response.result][remembered.distribution]
                if response.error:
                    self._counts.add(Counter.ERRORS, response.error)
            tallies.total.amount += 1
            tallies.responses.amount += 1
            tallies.sent_bytes.amount += sent
            tallies.first_byte.buckets[0] += 1  # its head was sent at once
        self._sent.amount += sent_bytes
        if cut is not None:
            self._counts.add(Counter.ERRORS, "response_cut")
        if self.viewers is not None:
            self.viewers.add_hits(hits)
        log, now_s = self._log, time.time()
        if self.logs_responses:
            log.lines(hits, partial(json_hit_lines, log.process, now_s, duration_s, cut))
        web_log = self._web_log
        if web_log.rules and web_log.spool is not None:
            finished = hits, now_s, duration_s, cut
            web_log.spool.add_batch(len(hits), now_s, finished, self._hit_lines)

    def refused_connection(
        self,
        client: str,
        status: HTTPStatus,
        request: WebRequest | None = None,
        request_id: str = "",
        body_bytes: int = 0,
    ) -> None:
        self._count(status.value, CacheResult.ERROR, body_bytes)
        target: dict[str, str] = {}
        if request is not None:
            path = request.path.decode("latin-1")
            target = {"method": request.method, "host": request.host, "path": path}
        self._log.event(
            "response",
            client=client,
            **target,
            status=status.value,
            bytes=body_bytes,
            cache=CacheResult.ERROR.value,
            request_id=request_id or None,
            reason=status.phrase,
        )

    def _count(
        self,
        status: int,
        result: CacheResult,
        sent_bytes: int,
        error: str = "",
        distribution: str = "",
    ) -> ResponseTallies:
        self._sent.amount += sent_bytes
        tallies = self._tallies[result][distribution]
        tallies.total.amount += 1
        tallies.responses.amount += 1
        tallies.sent_bytes.amount += sent_bytes
        self._statuses(status).amount += 1
        if error:
            self._counts.add(Counter.ERRORS, error)
        return tallies
