"""The page's files on the admin address, and what they may not contain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.admin.app import create_admin_app
from streamedge.admin.page import page_files, page_routes
from streamedge.coordination.shared_state import SharedState
from tests.support.admin.access import open_access, users
from tests.support.http.asgi_call import exchange
from tests.support.process.shared_memory import close_shared, make_shared

HOST = ("Host", "127.0.0.1:9090")
PAGE = Path(__file__).parents[2] / "streamedge" / "page"
OWN = [file for file in sorted(PAGE.rglob("*")) if file.suffix in {".js", ".html", ".css"}]
OWN = [file for file in OWN if "vendor" not in file.parts]


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(0)
    yield state
    close_shared(state)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/views/overview.js", "text/javascript; charset=utf-8"),
        ("/page/vendor/uplot.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/page/vendor/uplot.LICENSE", "text/plain; charset=utf-8"),
    ],
)
async def test_file_of_the_page_has_its_media_type(
    shared: SharedState, path: str, media_type: str
) -> None:
    access = open_access(shared, users(anna="operator"))  # it is shown before the login
    app = create_admin_app("fra-1", shared, access, routes=page_routes())
    status, fields, body = await exchange(app, "GET", path, fields=(HOST,))
    assert (status, fields["content-type"]) == (200, media_type)
    assert body


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/__init__.py", "/page/../admin/page.py", "/page/%2e%2e/config.toml"],
)
async def test_no_other_file_is_served(shared: SharedState, path: str) -> None:
    app = create_admin_app("fra-1", shared, open_access(shared), routes=page_routes())
    assert (await exchange(app, "GET", path, fields=(HOST,)))[0] == 404


def test_each_file_is_part_of_the_page() -> None:
    names = {str(file.relative_to(PAGE)) for file in PAGE.rglob("*") if file.is_file()}
    names = {name for name in names if not name.endswith((".py", ".pyc"))}
    assert set(page_files()) == names
    assert len(names) > 20


@pytest.mark.parametrize("file", OWN, ids=[str(file.relative_to(PAGE)) for file in OWN])
def test_no_text_becomes_markup_code_or_style(file: Path) -> None:
    """Texts of strangers are set as text alone; the policy forbids inline script and style."""
    text = file.read_text()
    markup = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser"
        r"|createContextualFragment|srcdoc"
    )
    code = r"\beval\(|new Function|setTimeout\(\s*[\"'`]|javascript:"
    assert re.findall(f"{markup}|{code}", text) == []
    assert re.findall(r"setAttribute\(\s*[\"'](?:style|on\w+)", text) == []
    if file.suffix == ".html":
        assert re.findall(r"\bstyle=|\bon\w+=|<script(?![^>]*\bsrc=)", text) == []
    # It works without another host: nothing is loaded from one. A namespace is no address.
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_modules_import_files_that_exist() -> None:
    imports = [
        (file, name)
        for file in OWN
        for name in re.findall(r"^(?:import|\}).* from \"(.+)\";", file.read_text(), re.MULTILINE)
    ]
    assert len(imports) > 20
    assert [one for one in imports if not (one[0].parent / one[1]).is_file()] == []
