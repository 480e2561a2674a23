"""Long work on the admin address: jobs with progress, that can be cancelled.

POST   /jobs         starts a job: {"kind": "verify"} or {"kind": "warm", "paths": […]}
GET    /jobs         the running jobs and the last ones that have ended, newest first
GET    /jobs/{id}    one of them
DELETE /jobs/{id}    cancels it; what it has done stays done

One job of a kind runs at a time. Jobs end with the control process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.admin.request_body import json_object, read_body
from streamedge.errors import StreamEdgeError
from streamedge.http_fields import parse_number
from streamedge.ops.log import Log

ENDED_KEPT = 20
PROBLEMS_KEPT = 100  # of one job; all are counted
BODY_BYTES_MAX = 16 << 20


class JobState(Enum):
    """RUNNING is the only state that changes."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Job:
    """A job and its progress. ``total``: how many items it has; None: not known.

    ``problems``: the first PROBLEMS_KEPT items that failed, with the reasons.
    """

    id: int
    kind: str
    began_s: float
    state: JobState = JobState.RUNNING
    ended_s: float | None = None
    total: int | None = None
    done: int = 0
    failed: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def add_problem(self, problem: str) -> None:
        """Counts an item that failed."""
        self.failed += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


JobWork = Callable[[Job], Awaitable[None]]
"""Does the work and counts it in the job. Raises StreamEdgeError or OSError if it cannot go on."""
JobKind = Callable[[Mapping[str, Any]], JobWork]
"""Makes the work from a request's members. Raises HTTPException 400 or 404."""


class Jobs:
    """The jobs of a control process. ``kinds``: what can be started, by name."""

    def __init__(self, kinds: Mapping[str, JobKind], log: Log) -> None:
        self._kinds = dict(kinds)
        self._log = log
        self._serial = itertools.count(1)
        self._running: dict[int, tuple[Job, asyncio.Task[None]]] = {}
        self._ended: deque[Job] = deque(maxlen=ENDED_KEPT)

    @property
    def jobs(self) -> list[Job]:
        """The running jobs and the last ones that have ended, newest first."""
        running = [job for job, _task in self._running.values()]
        return sorted([*running, *self._ended], key=lambda job: -job.id)

    def find(self, number: int) -> Job | None:
        """The job with an id; None if there is none, or it has ended long ago."""
        return next((job for job in self.jobs if job.id == number), None)

    def start(self, members: Mapping[str, Any]) -> Job:
        """Starts a job. Raises HTTPException: 400 for a request, 409 if one of its kind runs."""
        kind = members.get("kind")
        if not isinstance(kind, str) or kind not in self._kinds:
            raise HTTPException(400, f"kind is one of {', '.join(sorted(self._kinds))}")
        running = [job for job, _task in self._running.values() if job.kind == kind]
        if running:
            raise HTTPException(
                409, f"job {running[0].id} is a {kind} job that still runs: cancel it, or wait"
            )
        work = self._kinds[kind](members)
        job = Job(next(self._serial), kind, time.time())
        task = asyncio.create_task(self._run(job, work), name=f"job {job.id}")
        task.add_done_callback(partial(self._ended_task, job))
        self._running[job.id] = job, task
        self._log.event("job_started", job=job.id, kind=kind)
        return job

    async def cancel(self, job: Job) -> None:
        """Cancels a job, and returns when it has ended."""
        running = self._running.get(job.id)
        if running is not None:
            running[1].cancel()
            await asyncio.wait([running[1]])  # its callbacks are called before this returns

    async def close(self) -> None:
        """Cancels all jobs."""
        for job, _task in list(self._running.values()):
            await self.cancel(job)

    async def _run(self, job: Job, work: JobWork) -> None:
        try:
            await work(job)
            job.state = JobState.DONE
        except (StreamEdgeError, OSError) as exc:
            job.add_problem(str(exc))
            job.state = JobState.FAILED

    def _ended_task(self, job: Job, task: asyncio.Task[None]) -> None:
        """Notes the end of a job; an error of ours goes to the loop's exception handler."""
        if task.cancelled():
            job.state = JobState.CANCELLED
        elif (exc := task.exception()) is not None:
            job.state = JobState.FAILED
            job.add_problem(repr(exc))
            context = {"message": "a job failed", "exception": exc, "task": task}
            task.get_loop().call_exception_handler(context)
        job.ended_s = time.time()
        del self._running[job.id]
        self._ended.appendleft(job)
        self._log.event(
            "job_ended",
            job=job.id,
            kind=job.kind,
            state=job.state.value,
            done=job.done,
            failed=job.failed,
            bytes=job.bytes,
        )


class RateLimiter:
    """Keeps work to a rate: ``wait`` returns when the work that was counted may be done."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._began_s = clock()
        self._amount = 0.0

    def pause_s(self, amount: float) -> float:
        """Counts an amount of work; how long to wait after it."""
        self._amount += amount
        return max(0.0, self._amount / self._rate - (self._clock() - self._began_s))

    async def wait(self, amount: float) -> None:
        """Counts an amount of work and waits."""
        await asyncio.sleep(self.pause_s(amount))


def job_routes(jobs: Jobs) -> list[Route]:
    """The routes."""

    def find(request: Request) -> Job:
        text = request.path_params["id"]
        number = parse_number(text)
        job = None if number is None else jobs.find(number)
        if job is None:
            raise HTTPException(404, f"no job has the id {text!a}, or it has ended long ago")
        return job

    async def start(request: Request) -> Response:
        return JSONResponse(
            job_members(jobs.start(json_object(await read_body(request, BODY_BYTES_MAX)))), 201
        )

    async def list_jobs(_request: Request) -> Response:
        return JSONResponse({"jobs": [job_members(job) for job in jobs.jobs]})

    async def show(request: Request) -> Response:
        return JSONResponse(job_members(find(request)))

    async def cancel(request: Request) -> Response:
        job = find(request)
        await jobs.cancel(job)
        return JSONResponse(job_members(job))

    return [
        Route("/jobs", start, methods=["POST"]),
        Route("/jobs", list_jobs),
        Route("/jobs/{id}", show),
        Route("/jobs/{id}", cancel, methods=["DELETE"]),
    ]


def job_members(job: Job) -> dict[str, object]:
    """A job for the operator."""
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "began_s": round(job.began_s, 3),
        "ended_s": None if job.ended_s is None else round(job.ended_s, 3),
        "total": job.total,
        "done": job.done,
        "failed": job.failed,
        "bytes": job.bytes,
        "problems": list(job.problems),
        "problems_left_off": job.failed - len(job.problems),
    }


def number_member(members: Mapping[str, Any], name: str, default: float, maximum: float) -> float:
    """A member that is a number above 0. Raises HTTPException 400."""
    value = members.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= maximum:
        raise HTTPException(400, f"{name} is a number above 0, at most {maximum:g}")
    return float(value)
