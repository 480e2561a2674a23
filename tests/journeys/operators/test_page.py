"""Journeys: an operator on the page of a real edge, in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Route, expect

from tests.support.admin.access import PASSWORD, PASSWORD_HASH
from tests.support.admin.browser import open_page
from tests.support.origins.counting_origin import counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_media import tags_flv

VIEWS = (
    *("overview", "viewers", "cache", "origins", "invalidate", "writes", "distributions"),
    *("certificates", "fleet", "log"),
)
FOLDER = '[origins.main]\ntype = "directory"\npath = "media"\n'
USERS = f'users.rita = {{password = "{PASSWORD_HASH}", role = "reader"}}\n'
MARKUP = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
LONG_AGENT = "Mozilla/5.0 (X11; Linux x86_64) " + "AppleWebKit/537.36 (KHTML, like Gecko) " * 5
FILM_S = 600
WIDTH = 1280
SAMPLES = Path(__file__).parents[3] / "media"


@contextmanager
def folder_edge(folder: Path, admin: str = "") -> Iterator[EdgeProcess]:
    """An edge with a long film, a large file and a small one in a folder."""
    media = folder / "media"
    media.mkdir(parents=True)
    (media / "film.flv").write_bytes(tags_flv(FILM_S))
    (media / "large.bin").write_bytes(bytes(64 << 20))
    (media / "small.txt").write_text("small")
    with run_edge(folder, FOLDER, workers=2, admin=admin) as edge:
        yield edge


def admin_url(edge: EdgeProcess) -> str:
    return f"http://127.0.0.1:{edge.admin_port}"


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def player(edge: EdgeProcess) -> Iterator[subprocess.Popen[bytes]]:
    """FFmpeg plays the film in real time."""
    url = edge.rtmp("film")
    with running("ffmpeg", "-v", "error", "-re", "-i", url, "-c", "copy", "-f", "null", "-") as one:
        yield one


@contextmanager
def download(edge: EdgeProcess, agent: str = "curl") -> Iterator[subprocess.Popen[bytes]]:
    """curl reads the large file slowly."""
    command = ("curl", "-sS", "-o", "/dev/null", "--limit-rate", "200K", "-A", agent)
    with running(*command, edge.http("large.bin")) as one:
        yield one


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_views_are_usable_and_break_no_policy(
    browser: Browser, tmp_path: Path, theme: str
) -> None:
    """axe finds no serious fault in any view, the policy reports nothing, no script fails, and
    nothing is wider than the window.
    """
    with folder_edge(tmp_path) as edge, player(edge), download(edge, LONG_AGENT):
        opened = open_page(browser, admin_url(edge), theme=theme, width=WIDTH)
        page = opened.page
        for view in VIEWS:
            opened.show(view)
            expect(page.get_by_role("heading", level=1)).not_to_be_empty()
            if view == "viewers":
                expect(page.locator("tbody tr")).to_have_count(2)
                for button in page.get_by_role("button", name=re.compile("^End ")).all():
                    expect(button).to_be_in_viewport(ratio=1)
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH, view
            results = Axe().run(page)
            serious = [
                f"{view}: {one['id']}: {[node['html'] for node in one['nodes']]}"
                for one in results.response["violations"]
                if one["impact"] in {"serious", "critical"}
            ]
            assert serious == []
        expect(page.locator("#edge-state")).to_have_text(re.compile("well|alert"))
        assert opened.problems == []


def test_players_and_a_download_appear_end_and_go(browser: Browser, tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        opened.show("viewers")
        expect(page.get_by_text("No viewer matches now")).to_be_visible()
        table = page.locator("table:has(caption:text-is('Viewers')) tbody tr")
        with player(edge), player(edge) as second, download(edge) as curl:
            expect(table).to_have_count(3)
            expect(table.filter(has_text="film").filter(has_text="playing")).to_have_count(2)
            expect(table.filter(has_text="/large.bin").filter(has_text="sending")).to_have_count(1)
            page.get_by_role("button", name="End /large.bin for 127.0.0.1").click()
            page.get_by_role("button", name="End this viewer").click()
            expect(page.get_by_text("127.0.0.1 was ended.")).to_be_visible()
            assert curl.wait(PATIENCE_S) != 0  # curl notices that the body is not complete
            page.get_by_label("RTMP", exact=True).check()
            expect(table).to_have_count(2)
            second.kill()
            expect(table).to_have_count(1)
        expect(table).to_have_count(0)
        (line,) = edge.await_log("viewer_ended")
        assert line["client"] == "127.0.0.1"
        opened.show("overview")
        expect(page.locator(".plot canvas")).to_have_count(4)
        assert opened.problems == []


def test_list_of_viewers_is_read_again_when_the_edge_says(browser: Browser, tmp_path: Path) -> None:
    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"next_look_s": 0.5})

    with folder_edge(tmp_path) as edge:
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        page.clock.install()
        page.clock.pause_at(time.time() + FILM_S)  # from now on the test moves the page's clock
        page.route("**/viewers?*", answer)
        opened.show("viewers")
        expect(page.get_by_text("0 over RTMP, 0 over HTTP.")).to_be_visible()
        with page.expect_request("**/viewers?*"):
            page.clock.run_for(500)
        assert opened.problems == []


def test_invalidation_by_the_form_makes_the_next_request_a_miss(
    browser: Browser, tmp_path: Path
) -> None:
    with folder_edge(tmp_path) as edge:
        assert cache_result(edge, "small.txt").startswith("Miss")
        assert cache_result(edge, "small.txt").startswith("Hit")
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        opened.show("invalidate")
        page.get_by_role("button", name="Invalidate").click()
        expect(page.get_by_role("alert").filter(has_text="Name at least one")).to_be_visible()
        page.get_by_label("Paths").fill("/small.txt")
        page.get_by_role("button", name="Invalidate").click()
        expect(page.get_by_text("is in effect everywhere")).to_be_visible()
        expect(page.locator("tbody tr")).to_contain_text("/small.txt")
        assert cache_result(edge, "small.txt").startswith(("Miss", "RefreshHit"))
        assert opened.problems == []


def test_origin_that_stops_raises_an_alert(browser: Browser, tmp_path: Path) -> None:
    with counting_origin({"film.bin": 1 << 20}) as origin:
        lines = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, lines) as edge:
            opened = open_page(browser, admin_url(edge))
            page = opened.page
            opened.show("overview")
            expect(page.locator("#edge-state")).to_have_text("All is well")
            origin.is_failing = True
            for number in range(40):
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(edge.http(f"{number}"), timeout=PATIENCE_S).close()
            alerts = page.get_by_role("status", name="Alerts")
            expect(alerts).to_contain_text("origin main: Requests to an origin fail.")
            expect(alerts).to_contain_text("Check the origin")
            expect(page.locator("#edge-state")).to_have_text(re.compile("alert"))
            expect(page.locator("#edge-state")).to_have_class("pill bad")  # it is critical
            opened.show("origins")
            expect(page.locator("tbody tr")).to_contain_text("down")
            assert opened.problems == []


def test_half_filled_object_is_drawn_pinned_and_purged(browser: Browser, tmp_path: Path) -> None:
    with counting_origin({"half.bin": 8 << 20}) as origin:
        lines = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, lines) as edge:
            request = urllib.request.Request(edge.http("half.bin"))
            request.add_header("Range", f"bytes=0-{(4 << 20) - 1}")
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                assert len(response.read()) == 4 << 20
            opened = open_page(browser, admin_url(edge))
            page = opened.page
            opened.show("cache")
            row = page.locator("table:has(caption:text-is('Cached objects')) tbody tr")
            expect(row).to_contain_text("half.bin")
            map_ = row.get_by_role("img", name=re.compile(r"cached 0 to \d+ of 8388608"))
            expect(map_).to_be_visible()
            page.get_by_role("button", name="Pin half.bin", exact=True).click()
            expect(row.get_by_text("pinned")).to_be_visible()
            page.get_by_role("button", name="Purge half.bin").click()
            page.get_by_role("button", name="Purge this object").click()
            expect(page.get_by_text("No cached object matches.")).to_be_visible()
            assert opened.problems == []


def test_films_in_the_cache_show_posters_and_a_hostile_one_a_placeholder(
    browser: Browser, tmp_path: Path
) -> None:
    films = {name: (SAMPLES / name).read_bytes() for name in ("film.mp4", "film.flv")}
    files = {**films, "hostile.mp4": hostile_mp4(films["film.mp4"]), "notes.txt": b"notes"}
    media = tmp_path / "media"
    media.mkdir(parents=True)
    for name, data in files.items():
        (media / name).write_bytes(data)
    with run_edge(tmp_path, FOLDER, workers=2, admin=USERS) as edge:
        for name in files:
            cache_result(edge, name)
        shutil.rmtree(media)  # a poster needs no origin
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        page.get_by_label("Name").fill("rita")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#user")).to_have_text("rita (reader)")
        opened.show("cache")
        rows = page.locator("table:has(caption:text-is('Cached objects')) tbody tr")
        expect(rows).to_have_count(len(files))
        for name in films:
            image = rows.filter(has_text=name).locator(".poster img")
            expect(image).to_be_visible()
            assert image.evaluate("(one) => one.decode().then(() => one.naturalWidth)") > 0
        expect(rows.filter(has_text="hostile.mp4").locator(".missing-poster svg")).to_be_visible()
        expect(rows.filter(has_text="notes.txt").locator(".poster.none")).to_have_count(1)
        expect(page.locator(".poster img")).to_have_count(len(films))
        assert edge.process.poll() is None
        assert json.loads(edge.admin("/healthz"))["ready"]
        assert not edge.log("process_ended")
        assert opened.problems == []


def hostile_mp4(film: bytes) -> bytes:
    """An MP4 whose tables are garbage behind valid headers of boxes."""
    at = film.index(b"stbl") + 4
    garbage = bytes((7 * number + 255) % 256 for number in range(400))
    return film[:at] + garbage + film[at + len(garbage) :]


def test_names_and_agents_of_strangers_stay_text(browser: Browser, tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge, download(edge, MARKUP):
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        opened.show("viewers")
        expect(page.get_by_text(MARKUP)).to_be_visible()
        urllib.request.urlopen(edge.http("small.txt?x=%3Cscript%3Ealert(1)%3C/script%3E")).read()
        with contextlib.suppress(urllib.error.HTTPError):
            agent = urllib.request.Request(edge.http("%3Cimg%20src=x%20onerror=alert(1)%3E"))
            agent.add_header("User-Agent", MARKUP)
            urllib.request.urlopen(agent)
        opened.show("log")
        expect(page.locator(".log li").filter(has_text=MARKUP).first).to_be_visible()
        for view in ("viewers", "cache", "log"):
            opened.show(view)
            assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title()
        assert opened.problems == []


NUMBERS = {
    "count(0)": "0",
    "count(9999)": "9,999",
    "count(12345)": "12.3 k",
    "count(0.25)": "0.25",
    "count(null)": "–",
    "bytes(0)": "0 B",
    "bytes(1023)": "1023 B",
    "bytes(1536)": "1.50 KiB",
    "bytes(67108864)": "64.0 MiB",
    "bits(0)": "0 bit/s",
    "bits(125000)": "1.00 Mbit/s",
    "perSecond(12.5)": "12.5 /s",
    "percent(0)": "0 %",
    "percent(0.004)": "0.4 %",
    "percent(0.5)": "50 %",
    "percent(0.9999)": "99.9 %",
    "percent(1)": "100 %",
    "percent(null)": "–",
    "duration(59)": "59 s",
    "duration(3600)": "1 h",
    "duration(176400)": "2 d 1 h",
    "position(3723)": "1:02:03",
    "plural(1, 'worker')": "1 worker",
    "plural(2, 'worker')": "2 workers",
}


def test_numbers_have_units_and_few_digits(browser: Browser, tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        page = open_page(browser, admin_url(edge)).page
        texts = page.evaluate(
            "async (calls) => { const format = await import('/page/format.js');"
            " return calls.map(([name, values]) => format[name](...values)); }",
            [[name, json.loads(f"[{values}]")] for name, values in map(call_parts, NUMBERS)],
        )
        assert dict(zip(NUMBERS, texts, strict=True)) == NUMBERS


def call_parts(call: str) -> tuple[str, str]:
    name, _, values = call.removesuffix(")").partition("(")
    return name, values.replace("'", '"')


def test_reader_logs_in_sees_and_cannot_act(browser: Browser, tmp_path: Path) -> None:
    with folder_edge(tmp_path, admin=USERS) as edge, download(edge):
        opened = open_page(browser, admin_url(edge))
        page = opened.page
        page.get_by_label("Name").fill("rita")
        page.get_by_label("Password").fill("wrong password")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("the name or the password is wrong.")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#user")).to_have_text("rita (reader)")
        opened.show("viewers")
        expect(page.locator("tbody tr")).to_contain_text("/large.bin")
        expect(page.get_by_role("button", name=re.compile("^End"))).to_have_count(0)
        opened.show("invalidate")
        expect(page.get_by_text("A reader cannot invalidate")).to_be_visible()
        answer = page.evaluate("fetch('/reload', {method: 'POST'}).then((one) => one.status)")
        assert answer == 403
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert page.evaluate("fetch('/status').then((one) => one.status)") == 401
        assert opened.problems == []


def test_page_is_used_by_keyboard_and_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        opened = open_page(browser, admin_url(edge), width=360)
        page = opened.page
        page.wait_for_selector("main h1")  # a view that is shown later takes the focus
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        for view in VIEWS:
            opened.show(view)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, view
        page.get_by_role("button", name=re.compile("^Theme")).click()
        page.get_by_role("button", name=re.compile("^Theme: Light")).press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload()
        expect(page.get_by_role("button", name="Theme: Dark")).to_be_visible()
        assert opened.problems == []


def cache_result(edge: EdgeProcess, path: str) -> str:
    """The X-Cache field of a response."""
    with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
        response.read()
        return str(response.headers["X-Cache"])
