"""The ``streamedge warm`` command: fetches objects into the cache before viewers request them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamedge.cli.admin_options import admin_of
from streamedge.cli.output import DEFAULT_CONFIG, ConfigOption, exit_on, exit_on_admin_error

PATHS_MAX = 50_000  # of one job


def warm(
    context: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH…", help="Paths or URLs to fetch.")
    ] = None,
    path_list: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE", help="A file with a path or URL in each line; - is stdin."
        ),
    ] = None,
    sitemap: Annotated[
        str, typer.Option(metavar="FILE|URL", help="A sitemap, or an index of sitemaps.")
    ] = "",
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST", help="The host of the requests, which selects the distribution."
        ),
    ] = "",
    rate: Annotated[
        float, typer.Option(min=0.01, help="Send at most so many requests a second.")
    ] = 10.0,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
) -> None:
    """Fetch objects into the cache of the running edge.

    The edge requests each path from itself as a viewer does, four at a time, and drops the bodies.
    Paths that need a signature are refused as they are for viewers.
    """
    from streamedge.cli.cache.jobs import exit_with, job_summary, run_job  # noqa: PLC0415
    from streamedge.cli.cache.sitemap import (  # noqa: PLC0415
        PathListError,
        path_of,
        read_lines,
        read_list,
        read_sitemap,
    )

    if not paths and path_list is None and not sitemap:
        raise typer.BadParameter("give paths, or --list FILE, or --sitemap URL")
    admin = admin_of(context, config)
    with exit_on_admin_error(), exit_on(PathListError):
        selected_paths = dict.fromkeys(path_of(path) for path in paths or ())
        if path_list is not None:
            selected_paths |= dict.fromkeys(read_list(read_lines(path_list)))
        if sitemap:
            selected_paths |= dict.fromkeys(read_sitemap(sitemap))
        if not selected_paths:
            raise PathListError("the list has no paths")
        if len(selected_paths) > PATHS_MAX:
            raise PathListError(f"more than {PATHS_MAX} paths: divide the list")
        request = {
            "kind": "warm",
            "paths": list(selected_paths),
            "host": host,
            "requests_per_s": rate,
        }
        job = run_job(admin, request)
    typer.echo(json.dumps(job, indent=2) if as_json else job_summary(job))
    exit_with(job)
