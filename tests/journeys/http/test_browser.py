"""Journeys of a real browser: a page, its scripts and media, over HTTP/2 from a real edge."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.chromium import load_page
from tests.support.origins.scripted_responses import Pattern
from tests.support.process.edge_process import run_edge

HOST = "www.edge.test"
FILM_BYTES = 300_000
FILM = Pattern(FILM_BYTES, seed=9).read(Span(0, FILM_BYTES))

# Each answer is [status, bytes, X-Cache, sum of the bytes].
PAGE = """<!doctype html><title>page</title><link rel="icon" href="data:,"><pre id="out"></pre>
<script>
const answer = async (path, fields = {}, method = "GET") => {
  const response = await fetch(path, {headers: fields, method, cache: "no-store"});
  const body = new Uint8Array(await response.arrayBuffer());
  const sum = body.reduce((sum, byte) => sum + byte, 0);
  return [response.status, body.length, response.headers.get("x-cache").split(" ")[0], sum];
};
(async () => {
  const seen = {};
  seen.first = await answer("/film.bin");
  seen.again = await answer("/film.bin");
  seen.range = await answer("/film.bin", {range: "bytes=1000-1999"});
  seen.suffix = await answer("/film.bin", {range: "bytes=-10"});
  seen.head = await answer("/film.bin", {}, "HEAD");
  seen.missing = await answer("/none.bin");
  seen.post = await answer("/film.bin", {}, "POST");
  seen.many = (await Promise.all(
    [...Array(100).keys()].map(number => answer(`/film.bin?number=${number}`))
  )).map(one => one[0]).filter(status => status === 200).length;
  seen.page = performance.getEntriesByType("navigation")[0].nextHopProtocol;
  seen.others = [...new Set(
    performance.getEntriesByType("resource").filter(entry => entry.name.startsWith("https"))
      .map(entry => entry.nextHopProtocol)
  )];
  document.getElementById("out").textContent = JSON.stringify(seen);
})();
</script>
"""


def test_browser_uses_http2_for_a_page_and_all_it_fetches(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "page.html").write_text(PAGE)
    (media / "film.bin").write_bytes(FILM)
    pair = CertificateAuthority(tmp_path).issue(HOST)
    origin = f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    with run_edge(tmp_path / "edge", origin, workers=2, certificate=pair) as edge:
        url = f"https://{HOST}:{edge.https_port}/page.html"
        document = load_page(url, HOST, pair, tmp_path / "profile")
    shown = re.search('<pre id="out">(.*?)</pre>', document, re.DOTALL)
    assert shown is not None, document
    seen: dict[str, Any] = json.loads(html.unescape(shown[1]))
    assert (seen["page"], seen["others"]) == ("h2", ["h2"])
    assert seen["first"] == [200, FILM_BYTES, "Miss", sum(FILM)]
    assert seen["again"] == [200, FILM_BYTES, "Hit", sum(FILM)]
    assert seen["range"] == [206, 1000, "Hit", sum(FILM[1000:2000])]
    assert seen["suffix"] == [206, 10, "Hit", sum(FILM[-10:])]
    assert seen["head"] == [200, 0, "Hit", 0]
    assert seen["missing"][0] == 404
    assert seen["post"][0] == 405
    assert seen["many"] == 100
