"""Fixtures and options of all tests: a real S3 server, a cache folder, event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from streamedge.cache.storage.store import prepare_folder
from tests.support.origins.s3_server import S3Server, run_s3_server

pytest_plugins = [
    "tests.support.engine.redis_server",
    "tests.support.media.media_samples",
    "tests.support.origins.aws_cli",
]

# The duration of an example says nothing while other tests run on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--corpus-size",
        type=int,
        default=20,
        help="how many media files with several edits are compared with FFmpeg, for each seed",
    )


@pytest.fixture(scope="session")
def corpus_size(request: pytest.FixtureRequest) -> int:
    """How many files with several edits a corpus test makes of each seed."""
    size: int = request.config.getoption("--corpus-size")
    return size


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


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops that tests run on: a module's own LOOP_FACTORIES, or asyncio's."""
    module = item.getparent(pytest.Module)
    assert module is not None
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = getattr(
        module.obj, "LOOP_FACTORIES", {"asyncio": asyncio.new_event_loop}
    )
    return factories
