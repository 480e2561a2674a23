"""Journeys: the page over the admin address's own TLS, and the page of an edge in a fleet."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.admin.access import PASSWORD, PASSWORD_HASH
from tests.support.admin.browser import open_page
from tests.support.certificate_authority import CertificateAuthority
from tests.support.engine.redis_server import run_redis
from tests.support.fleet.edges import run_fleet
from tests.support.process.edge_process import run_edge

PLACE = "location = [52.5, 13.4]"
USERS = f'users.anna = {{password = "{PASSWORD_HASH}", role = "operator"}}\n'


def folder_origin(folder: Path) -> str:
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    (media / "a").write_text("a")
    return f'[origins.main]\ntype = "directory"\npath = "{media}"\n'


def test_operator_logs_in_over_the_address_own_tls(browser: Browser, tmp_path: Path) -> None:
    """The certificate is of the admin address; the cookie never leaves TLS."""
    pair = CertificateAuthority(tmp_path).issue("ops.example")
    admin = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n{USERS}'
    origin = folder_origin(tmp_path)
    with run_edge(tmp_path / "edge", origin, admin=admin, admin_listen="0.0.0.0") as edge:
        url = f"https://127.0.0.1:{edge.admin_port}"
        opened = open_page(browser, url, ignores_certificate=True)
        page = opened.page
        assert page.evaluate("window.isSecureContext")
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#user")).to_have_text("anna (operator)")
        expect(page.locator("#edge-state")).to_have_text(re.compile("well|alert"))
        (cookie,) = page.context.cookies()
        assert cookie["name"].startswith("__Host-")
        assert cookie["secure"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        page.reload()  # the session goes on
        expect(page.locator("#user")).to_have_text("anna (operator)")
        opened.show("invalidate")
        page.get_by_label("Paths").fill("/*")
        page.get_by_role("button", name="Invalidate").click()
        expect(page.get_by_text("is in effect everywhere")).to_be_visible()
        (login,) = edge.await_log("admin_login")
        assert login["user"] == "anna"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert page.context.cookies() == []
        assert opened.problems == []


def test_fleet_view_shows_its_edges_and_drains_one(browser: Browser, tmp_path: Path) -> None:
    with (
        run_redis(tmp_path / "redis") as engine,
        run_fleet(tmp_path, engine.url, folder_origin(tmp_path), "ab", edge=PLACE) as (
            first,
            second,
        ),
    ):
        opened = open_page(browser, f"http://127.0.0.1:{first.admin_port}")
        page = opened.page
        opened.show("fleet")
        rows = page.locator("table:has(caption:text-is('Edges')) tbody tr")
        expect(rows).to_have_count(2)
        expect(page.get_by_text(f"The engine {engine.url} answers.")).to_be_visible()
        for name in "ab":
            row = rows.filter(has=page.get_by_role("rowheader", name=name, exact=True))
            expect(row).to_contain_text("up")
            expect(row).to_contain_text("52.5° N, 13.4° E")
            expect(row.locator("td[data-label=Lag]")).to_have_text("0")
        expect(page.locator(".map .mark.good text")).to_have_text("a, b")
        page.get_by_role("button", name="Drain b", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Drain b").click()
        expect(page.get_by_text("b: drain is done.")).to_be_visible()
        second_row = rows.filter(has=page.get_by_role("rowheader", name="b", exact=True))
        expect(second_row).to_contain_text("draining")
        expect(page.locator(".map .mark.warn text")).to_have_text("a, b")
        page.get_by_role("button", name="Undrain b").click()
        page.get_by_role("dialog").get_by_role("button", name="Undrain b").click()
        expect(second_row).to_contain_text("up")
        assert second.stop() == 0
        expect(second_row).not_to_contain_text("up")
        assert opened.problems == []
