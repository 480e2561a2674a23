"""The paths that ``streamedge warm`` takes from lists and sitemaps."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.cli.cache.sitemap import (
    SITEMAPS_MAX,
    PathListError,
    parse_sitemap,
    path_of,
    read_list,
    read_sitemap,
)

NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def sitemap(*urls: str) -> bytes:
    rows = "".join(f"<url><loc> {url} </loc><priority>1</priority></url>" for url in urls)
    return f'<?xml version="1.0"?><urlset {NAMESPACE}>{rows}</urlset>'.encode()


def sitemap_index(*urls: str) -> bytes:
    rows = "".join(f"<sitemap><loc>{url}</loc></sitemap>" for url in urls)
    return f"<sitemapindex {NAMESPACE}>{rows}</sitemapindex>".encode()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/film.mp4", "/film.mp4"),
        ("film.mp4", "/film.mp4"),
        ("https://www.example.com/a%20b?c=d#e", "/a%20b?c=d"),
        ("https://www.example.com", "/"),
        ("/ä b", "/%C3%A4%20b"),
    ],
)
def test_path_is_that_of_the_url(text: str, path: str) -> None:
    assert path_of(text) == path


@pytest.mark.parametrize("text", ["http://[x/a", "/\udc80"])
def test_damaged_url_is_refused(text: str) -> None:
    with pytest.raises(PathListError, match="is not a URL"):
        path_of(text)


def test_url_of_another_scheme_is_refused() -> None:
    with pytest.raises(PathListError, match="http or https"):
        path_of("ftp://example.com/a")


@given(st.text())
def test_any_line_is_a_path_or_refused(text: str) -> None:
    try:
        path = path_of(text)
    except PathListError:
        return
    assert path.startswith("/")
    assert path.isascii()
    assert " " not in path


def test_list_has_a_path_in_each_line() -> None:
    assert list(read_list(["/a\n", "\n", "# comment\n", "b\n"])) == ["/a", "/b"]


def test_sitemap_of_a_file_and_its_index(tmp_path: Path) -> None:
    (tmp_path / "one.xml").write_bytes(sitemap("https://example.com/a", "https://example.com/b"))
    (tmp_path / "two.xml.gz").write_bytes(gzip.compress(sitemap("https://example.com/c")))
    index = tmp_path / "index.xml"
    index.write_bytes(sitemap_index(str(tmp_path / "one.xml"), str(tmp_path / "two.xml.gz")))
    assert list(read_sitemap(str(index))) == ["/a", "/b", "/c"]


def test_index_that_lists_itself_ends(tmp_path: Path) -> None:
    index = tmp_path / "index.xml"
    index.write_bytes(sitemap_index(str(index)))
    with pytest.raises(PathListError, match=f"more than {SITEMAPS_MAX} sitemaps"):
        list(read_sitemap(str(index)))


@pytest.mark.parametrize(
    "content", [b"", b"<a", b"\x1f\x8bnot gzip", gzip.compress(b"x", mtime=0)[:-4]]
)
def test_damaged_sitemap_is_refused(content: bytes) -> None:
    with pytest.raises(PathListError, match="is not a sitemap"):
        list(parse_sitemap(content, "here"))


def test_sitemap_whose_entities_multiply_is_refused() -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    text = f'<!DOCTYPE u [<!ENTITY e0 "{"x" * 100}">{entities}]><u><url><loc>&e9;</loc></url></u>'
    with pytest.raises(PathListError, match="is not a sitemap"):
        list(parse_sitemap(text.encode(), "here"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_sitemap_or_refused(content: bytes) -> None:
    try:
        assert list(parse_sitemap(content, "here")) == []
    except PathListError:
        return


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathListError, match=r"cannot read .*missing\.xml"):
        list(read_sitemap(str(tmp_path / "missing.xml")))
