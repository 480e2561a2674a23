"""Reads delivered access logs, from a folder and from a bucket."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from streamedge.logs.cloudfront import HEAD, WebRecord, decode
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause

_NODE_PACKAGES = Path(__file__).parents[2] / ".node"
_LOG_PARSER = Path(__file__).with_name("log_parser.js")
FILE_NAME = re.compile(r"(?:.*/)?([A-Za-z0-9_-]+)\.(\d{4}-\d\d-\d\d-\d\d)\.([A-Z0-9]{11})\.gz")


def folder_files(folder: Path) -> dict[str, bytes]:
    """The delivered files below a folder, by name, in the order in which they were delivered."""
    paths = [path for path in folder.rglob("*.gz") if FILE_NAME.fullmatch(path.name)]
    paths.sort(key=lambda path: path.stat().st_mtime_ns)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def bucket_files(s3: S3Server, bucket: str) -> dict[str, bytes]:
    """The objects of a bucket, by key."""
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key: s3.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def texts(files: Mapping[str, bytes], head: str = HEAD) -> list[str]:
    """The lines of all files; each file has its name's form and begins with ``head``."""
    lines: list[str] = []
    for name, data in files.items():
        assert FILE_NAME.fullmatch(name), name
        text = gzip.decompress(data).decode("ascii")
        assert text.startswith(head), name
        assert text.endswith("\n"), name
        lines += text.removeprefix(head).splitlines()
    return lines


def records(files: Mapping[str, bytes]) -> list[WebRecord]:
    """The records of all files of a web distribution."""
    return [decode(line) for line in texts(files)]


def read_with_node(folder: Path, form: str) -> list[dict[str, str]]:
    """The entries that Node's package cloudfront-log-parser reads below a folder.

    ``form``: "web" or "rtmp". Values are decoded by the package; their names are CloudFront's, but
    for "cs-host" and the like, which have no parentheses.
    """
    packages = _NODE_PACKAGES / "node_modules"
    assert packages.exists(), "a package is missing: tools/install_programs.sh installs it"
    files = [folder / name for name in folder_files(folder)]
    done = subprocess.run(
        ["node", _LOG_PARSER, packages, form, *files],
        check=True,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
    )
    entries: list[list[dict[str, str]]] = json.loads(done.stdout)
    return [entry for entries_of_file in entries for entry in entries_of_file]


def await_lines(read: Callable[[], list[str]], count: int) -> list[str]:
    """The lines that ``read`` returns, once there are ``count``."""
    deadline_s = time.monotonic() + PATIENCE_S
    while len(lines := read()) < count:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(lines)} of {count} lines")
        pause()
    return lines
