"""Journey: the page marks viewers of workers from before an upgrade, and ends one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.journeys.processes.test_upgrade import DIRECTORY, upgrade
from tests.support.admin.browser import open_page
from tests.support.patience import PATIENCE_S
from tests.support.process.admin_calls import await_json
from tests.support.process.edge_process import EdgeProcess, run_edge

LARGE_BYTES = 1 << 30  # more than a download at RATE takes in the time of this test
RATE = "2M"  # a second; a download that is cut ends when curl has read what its socket holds


@contextmanager
def download(edge: EdgeProcess, agent: str) -> Iterator[subprocess.Popen[bytes]]:
    """A slow download, once the edge lists it."""
    command = ["curl", "-s", "--limit-rate", RATE, "-A", agent, "-o", "/dev/null"]
    process = subprocess.Popen([*command, edge.http("large.bin")])
    try:
        path = f"/viewers?state=sending&match={agent}"
        await_json(edge, path, lambda document: document["matching"] == 1)
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def test_viewers_of_retiring_workers_have_a_badge(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    with open(tmp_path / "media" / "large.bin", "wb") as file:
        file.truncate(LARGE_BYTES)
    with run_edge(tmp_path, DIRECTORY) as edge:
        opened = open_page(browser, f"http://127.0.0.1:{edge.admin_port}")
        page = opened.page
        opened.show("viewers")
        rows = page.locator("table:has(caption:text-is('Viewers')) tbody tr")
        badge = page.get_by_text("retiring worker", exact=True)
        with download(edge, "before") as before:
            old = rows.filter(has_text="before")
            expect(old).to_have_count(1)
            expect(old.filter(has=badge)).to_have_count(0)
            upgrade(edge)
            expect(old.filter(has=badge)).to_have_count(1)
            expect(old).to_contain_text("sending")
            with download(edge, "after"):
                new = rows.filter(has_text="after")
                expect(new).to_have_count(1)
                expect(new.filter(has=badge)).to_have_count(0)
                old.get_by_role("button", name=re.compile("^End ")).click()
                page.get_by_role("button", name="End this viewer").click()
                assert before.wait(PATIENCE_S) != 0  # curl: the transfer was cut
                expect(old.filter(has=badge)).to_have_count(0)
                expect(new).to_contain_text("sending")
        edge.await_log("upgrade_finished")
        assert opened.problems == []
