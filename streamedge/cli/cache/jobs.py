"""Runs a job of the edge from the command line: starts it, shows its progress, cancels it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamedge.cli.admin_client import Admin, call, session
from streamedge.cli.output import EXIT_EDGE_REFUSED, EXIT_PARTLY_DONE

POLL_S = 0.3
PROBLEMS_SHOWN = 10


def run_job(admin: Admin, request: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a job and returns it when it has ended; Ctrl-C cancels it. Raises AdminError.

    Its progress is on stderr if that is a terminal.
    """
    with session(admin) as caller:
        job = call(caller, "POST", "/jobs", request)
        path = f"/jobs/{job['id']}"
        try:
            with _progress() as progress:
                task = progress.add_task(job["kind"], total=job["total"], size="")
                while job["state"] == "running":
                    time.sleep(POLL_S)
                    job = call(caller, "GET", path)
                    size = decimal(job["bytes"])
                    progress.update(task, total=job["total"], completed=job["done"], size=size)
        except KeyboardInterrupt:
            return call(caller, "DELETE", path)
        return job


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[size]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def job_summary(job: Mapping[str, Any]) -> str:
    """A job that has ended: one line, and its first problems."""
    seconds = (job["ended_s"] or time.time()) - job["began_s"]
    done = job["done"] if job["total"] is None else f"{job['done']} of {job['total']}"
    line = (
        f"{job['kind']}: {job['state']} after {seconds:.1f} s, {done} objects,"
        f" {decimal(job['bytes'])}, {job['failed']} with a problem."
    )
    problems = job["problems"][:PROBLEMS_SHOWN]
    more = job["failed"] - len(problems)
    return "\n".join([line, *problems, *([f"… and {more} more"] if more > 0 else [])])


def exit_with(job: Mapping[str, Any]) -> None:
    """Exits with the code of a job: 0, 1 if it did not end, or 3 if some objects had a problem."""
    if job["state"] != "done":
        raise typer.Exit(EXIT_EDGE_REFUSED)
    if job["failed"]:
        raise typer.Exit(EXIT_PARTLY_DONE)
