"""A real browser on the operators' page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.patience import PATIENCE_S

PATIENCE_MS = PATIENCE_S * 1000
# What Chromium reports of responses that the page expects: before a login, without a fleet.
EXPECTED = ("status of 401", "status of 403", "status of 404", "status of 409")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium, which reaches no other host than this machine."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is missing: tools/install_programs.sh installs it"
    arguments = [
        *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class OperatorPage:
    """The page in a tab; ``problems`` are errors and reports of the policy so far."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)

    def show(self, view: str) -> None:
        """Goes to a view; returns when it is there."""
        self.page.goto(f"{self.url}/#/{view}")
        self.page.wait_for_selector(f'nav a[data-view="{view}"][aria-current="page"]')
        self.page.wait_for_selector("main h1")


def open_page(
    browser: Browser,
    url: str,
    *,
    theme: str = "light",
    width: int = 1280,
    ignores_certificate: bool = False,
) -> OperatorPage:
    """Opens the page in a new, empty profile."""
    context = browser.new_context(
        viewport={"width": width, "height": 860},
        color_scheme="dark" if theme == "dark" else "light",
        ignore_https_errors=ignores_certificate,
        locale="en-GB",
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    opened = OperatorPage(page, url)

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(
            one in message.text for one in EXPECTED
        ):
            opened.problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: opened.problems.append(str(error)))
    page.on("dialog", lambda dialog: opened.problems.append(f"dialog: {dialog.message}"))
    page.goto(url)
    return opened
