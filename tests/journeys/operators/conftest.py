"""A browser for the journeys of operators."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.admin.browser import PATIENCE_MS, open_browser

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module; each opens the page in a profile of its own."""
    with open_browser() as opened:
        yield opened
