"""The viewers of all workers in shared memory, and requests to end one.

Nothing is collected before an operator looks: ``watch`` sets a time until which workers note their
HTTP viewers, and wakes them. Then each writes once a second how many it has. It writes its rows
only when the control process requests them, and wakes it. A worker also ends the viewers that the
control process names, and writes how many it has ended.

Workers from before an upgrade have rows of their own, whose memory is handed over
(``process.handover``), until the last of them has ended.
"""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from streamedge.ops.shared_buffer import SharedBuffer
from streamedge.ops.shared_words import SharedWords
from streamedge.ops.wakeup import Wakeup

ROWS_MAX = 4096  # of one worker
WATCH_S = 10.0  # after the last look; longer than ``admin.viewers.LOOK_PAUSE_MAX_S``
ENDS_MAX = 64  # requests to end a viewer that are remembered
# Words in shared memory; _ENDS and _ROW_REQUESTS are the numbers of the newest requests. From
# _WORKERS on there are _WORKER_WORDS for each worker: when it has counted its HTTP viewers, how
# many there were, the request that its newest report answers, and whether it runs and reports.
_WATCHED_UNTIL_MS, _ENDS, _ROW_REQUESTS, _WORKERS = range(4)
_COUNTED_MS, _HTTP, _ANSWERED, _REPORTS, _WORKER_WORDS = range(5)
_COMMON, _OWN = 5, 7  # descriptors of all workers together, and of each one


class WorkerReport(NamedTuple):
    """The viewers of one worker: how many RTMP and HTTP viewers, and rows, at most ROWS_MAX.

    ``skipped``: responses since the last report that are in no row.
    """

    rtmp: int
    http: int
    skipped: int
    rows: Sequence[Sequence[Any]]


_NO_REPORT = WorkerReport(0, 0, 0, ())


class ViewerRows:
    """Created before the processes are forked."""

    def __init__(self, workers: int) -> None:
        self._shared = SharedWords("streamedge-viewers", _WORKERS + _WORKER_WORDS * workers)
        self._words = self._shared.words
        self._reports = [SharedBuffer("streamedge-viewers") for _ in range(workers)]
        self._ends = SharedBuffer("streamedge-ended-viewers")
        self._ended = [SharedBuffer("streamedge-ended-viewers") for _ in range(workers)]
        self._wakeups = [Wakeup() for _ in range(workers)]
        self._control = Wakeup()

    @classmethod
    def adopt(cls, descriptors: Sequence[int]) -> ViewerRows:
        """The rows of workers that run already, in a program that has got the descriptors.

        Raises OSError, ValueError.
        """
        words, control, *ends = descriptors[:_COMMON]
        own = [
            descriptors[first : first + _OWN] for first in range(_COMMON, len(descriptors), _OWN)
        ]
        rows = cls.__new__(cls)
        rows._shared = SharedWords.adopt(words)
        rows._words = rows._shared.words
        rows._control = Wakeup(control)
        rows._ends = SharedBuffer.adopt(ends)
        rows._wakeups = [Wakeup(wakeup) for wakeup, *_buffers in own]
        rows._reports = [SharedBuffer.adopt(each[1:4]) for each in own]
        rows._ended = [SharedBuffer.adopt(each[4:]) for each in own]
        return rows

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What ``adopt`` needs."""
        common = (self._shared.descriptor, self._control.descriptor, *self._ends.descriptors)
        own = zip(self._wakeups, self._reports, self._ended, strict=True)
        return common + tuple(
            descriptor
            for wakeup, report, ended in own
            for descriptor in (wakeup.descriptor, *report.descriptors, *ended.descriptors)
        )

    @property
    def workers(self) -> range:
        """The numbers of all workers."""
        return range(len(self._wakeups))

    def close(self) -> None:
        self._shared.close()
        for buffer in (*self._reports, self._ends, *self._ended):
            buffer.close()
        for wakeup in (*self._wakeups, self._control):
            wakeup.close()

    # For the control process.

    def watch(self) -> None:
        """Makes the workers note and count HTTP viewers until WATCH_S from now; wakes them if they
        do not yet."""
        was_watched = self.is_watched
        self._note_look()
        if not was_watched:
            self._wake_workers()

    def request_rows(self) -> int:
        """Requests the rows of each worker; returns the request's number."""
        self._note_look()
        self._words[_ROW_REQUESTS] += 1
        self._wake_workers()
        return self._words[_ROW_REQUESTS]

    def has_answered(self, worker: int, number: int) -> bool:
        """Whether a worker has reported since the request for rows."""
        return self._words[self._word(worker, _ANSWERED)] >= number

    def report(self, worker: int) -> WorkerReport:
        """A worker's newest report. Raises OSError."""
        text = self._reports[worker].read()
        if not text:
            return _NO_REPORT
        return WorkerReport(*pickle.loads(text))  # noqa: S301  # the edge's own

    def count_age_s(self, worker: int) -> float:
        """Seconds since a worker has counted its HTTP viewers; infinite before it has."""
        counted_ms = self._words[self._word(worker, _COUNTED_MS)]
        return time.monotonic() - counted_ms / 1000 if counted_ms else math.inf

    def http_count(self, worker: int) -> int:
        """The number of HTTP viewers that a worker counted last."""
        return self._words[self._word(worker, _HTTP)]

    def reports(self, worker: int) -> bool:
        """Whether a worker runs and reports its viewers when an operator looks."""
        return bool(self._words[self._word(worker, _REPORTS)])

    def request_end(self, identifier: str) -> int:
        """Requests that each worker ends the viewer; returns the request's number. OSError."""
        number = self._words[_ENDS] + 1
        requests = [*self._end_requests(), [number, identifier]][-ENDS_MAX:]
        self._ends.write(json.dumps(requests).encode())
        self._words[_ENDS] = number
        self._wake_workers()
        return number

    def ended(self, worker: int, number: int) -> int | None:
        """How many viewers a worker has ended for a request; None before it has. OSError."""
        text = self._ended[worker].read()
        results: Mapping[str, int] = json.loads(text) if text else {}
        return results.get(str(number))

    def subscribe_control(self, callback: Callable[[], object]) -> None:
        """Makes the running event loop call ``callback`` when a worker has written something."""
        self._control.subscribe(callback)

    def unsubscribe_control(self) -> None:
        self._control.unsubscribe()

    # For the workers.

    @property
    def is_watched(self) -> bool:
        """Whether an operator looks."""
        return self._words[_WATCHED_UNTIL_MS] > time.monotonic() * 1000

    def subscribe(self, worker: int, callback: Callable[[], object]) -> None:
        """Makes the running event loop call ``callback`` when an operator begins to look, or
        requests rows or the end of a viewer."""
        self._wakeups[worker].subscribe(callback)
        self._words[self._word(worker, _REPORTS)] = 1

    def unsubscribe(self, worker: int) -> None:
        self._wakeups[worker].unsubscribe()
        self.forget(worker)

    def row_request(self, worker: int) -> int | None:
        """The number of the newest request for rows, if the worker has not answered it."""
        number = self._words[_ROW_REQUESTS]
        return None if self.has_answered(worker, number) else number

    def publish(self, worker: int, number: int, report: WorkerReport) -> None:
        """Writes a worker's report, which answers the request ``number``. Raises OSError."""
        # A third of the time of JSON, and a fifth of it to read.
        self._reports[worker].write(pickle.dumps(tuple(report)))
        self.publish_count(worker, report.http)
        self._words[self._word(worker, _ANSWERED)] = number
        self._control.notify()

    def publish_count(self, worker: int, http: int) -> None:
        """Writes how many HTTP viewers a worker has."""
        self._words[self._word(worker, _HTTP)] = http
        self._words[self._word(worker, _COUNTED_MS)] = int(time.monotonic() * 1000)

    @property
    def end_requests(self) -> int:
        """The number of the newest request to end a viewer; 0 before the first."""
        return self._words[_ENDS]

    def end_requests_after(self, number: int) -> list[tuple[int, str]]:
        """Numbers and viewers of the requests after ``number``. Raises OSError."""
        return [(one, identifier) for one, identifier in self._end_requests() if one > number]

    def publish_ended(self, worker: int, results: Mapping[int, int]) -> None:
        """Writes how many viewers the worker has ended, by request. Raises OSError."""
        self._ended[worker].write(json.dumps(results).encode())
        self._control.notify()

    def forget(self, worker: int) -> None:
        """Removes the rows of a worker that has ended. The supervisor does it for a killed one."""
        for word in (_REPORTS, _ANSWERED, _COUNTED_MS, _HTTP):
            self._words[self._word(worker, word)] = 0
        self._control.notify()

    @staticmethod
    def _word(worker: int, word: int) -> int:
        return _WORKERS + _WORKER_WORDS * worker + word

    def _end_requests(self) -> list[list[Any]]:
        text = self._ends.read()
        requests: list[list[Any]] = json.loads(text) if text else []
        return requests

    def _note_look(self) -> None:
        self._words[_WATCHED_UNTIL_MS] = int((time.monotonic() + WATCH_S) * 1000)

    def _wake_workers(self) -> None:
        for wakeup in self._wakeups:
            wakeup.notify()
