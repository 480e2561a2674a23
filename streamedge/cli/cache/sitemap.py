"""The paths of a list or a sitemap, for ``streamedge warm``.

A sitemap (sitemaps.org) may be an index of further sitemaps and may be compressed with gzip. It is
read from a file or a URL.
"""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen
from xml.etree.ElementTree import ParseError, iterparse

from streamedge.errors import StreamEdgeError

SITEMAP_BYTES_MAX = 50 << 20  # sitemaps.org
SITEMAPS_MAX = 50  # of one index
TIMEOUT_S = 30.0
_SAFE = "/?#[]@!$&'()*+,;=:%~"


class PathListError(StreamEdgeError):
    """There are no paths, too many, or a list cannot be read; the message is for the operator."""


def path_of(text: str) -> str:
    """The path of a line or URL, percent-encoded. Raises PathListError."""
    text = text.strip()
    try:
        if "://" in text:
            parts = urlsplit(text)
            if parts.scheme not in {"http", "https"}:
                raise PathListError(f"{text[:100]!a} is not a URL of http or https")
            text = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return quote(text if text.startswith("/") else f"/{text}", safe=_SAFE)
    except ValueError as exc:
        raise PathListError(f"{text[:100]!a} is not a URL: {exc}") from exc


def read_lines(path: Path) -> list[str]:
    """The lines of a file, or of stdin for "-". Raises PathListError."""
    try:
        return sys.stdin.readlines() if str(path) == "-" else path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise PathListError(f"cannot read {path}: {exc}") from exc


def read_list(lines: Iterable[str]) -> Iterator[str]:
    """The paths of a list: one path or URL a line; empty lines and those with # are left out."""
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield path_of(line)


def read_sitemap(source: str) -> Iterator[str]:
    """The paths of a sitemap, and of those that it lists. Raises PathListError."""
    pending, read = [source], 0
    while pending:
        read += 1
        if read > SITEMAPS_MAX:
            raise PathListError(f"{source}: more than {SITEMAPS_MAX} sitemaps")
        place = pending.pop(0)
        for kind, url in parse_sitemap(_content(place), place):
            if kind == "sitemap":
                pending.append(url)
            else:
                yield path_of(url)


def parse_sitemap(content: bytes, place: str) -> Iterator[tuple[str, str]]:
    """The entries of a sitemap: "url" or "sitemap", and its location. Raises PathListError."""
    try:
        if content.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(SITEMAP_BYTES_MAX + 1)
        if len(content) > SITEMAP_BYTES_MAX:
            raise PathListError(f"{place} is larger than {SITEMAP_BYTES_MAX >> 20} MiB")
        for _event, element in iterparse(io.BytesIO(content)):  # noqa: S314 - the operator's own site
            kind = element.tag.rpartition("}")[2]
            if kind in {"url", "sitemap"}:
                for child in element:
                    if child.tag.rpartition("}")[2] == "loc" and child.text:
                        yield kind, child.text.strip()
                element.clear()
    except (ParseError, OSError, EOFError) as exc:
        raise PathListError(f"{place} is not a sitemap: {exc}") from exc


def _content(place: str) -> bytes:
    """A file's or a URL's content. Raises PathListError."""
    try:
        if "://" in place:
            if urlsplit(place).scheme not in {"http", "https"}:
                raise PathListError(f"{place[:100]!a} is not a URL of http or https")
            with urlopen(place, timeout=TIMEOUT_S) as response:  # noqa: S310 - checked above
                content: bytes = response.read(SITEMAP_BYTES_MAX + 1)
                return content
        with open(place, "rb") as file:
            return file.read(SITEMAP_BYTES_MAX + 1)
    except (OSError, URLError, ValueError) as exc:
        raise PathListError(f"cannot read {place}: {exc}") from exc
