"""What tests of every room share: a real S3 server, and a folder for a cache.

pytest puts this folder on the import path, so that tests find ``fakes``, ``s3_server`` and
``edge_process`` by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3_server import S3Server, run_s3_server

from streamedge.cache.store import prepare_folder

pytest_plugins = ["media_samples"]

# How long an example takes says nothing on a machine that runs other tests beside.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server that checks signatures, with the bucket "videos"."""
    with run_s3_server() as server:
        server.create_bucket("videos")
        yield server


@pytest.fixture
def cache_root(tmp_path: Path) -> Path:
    """A prepared cache folder."""
    root = tmp_path / "cache"
    prepare_folder(root)
    return root
