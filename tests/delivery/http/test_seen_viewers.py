"""The HTTP viewers of a worker: who counts as one, for how long, and the limits."""

from __future__ import annotations

from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.seen_viewers import (
    CLIENTS_MAX,
    FINISHED_MAX,
    SEEN_S,
    VIEWERS_MAX,
    RunningResponse,
    SeenViewers,
    viewer_id,
    viewer_key,
)

NOW_S = 1000.0


def request(
    path: str = "/film.mp4",
    address: str = "192.0.2.1",
    agent: str = "curl",
    port: int = 5000,
    host: str = "www.example",
) -> WebRequest:
    return WebRequest(
        "GET",
        host,
        path.encode(),
        {"user-agent": agent},
        f"{address}:{port}",
        True,
        NOW_S,
        address=address,
    )


def running(one: WebRequest, sent_bytes: int = 100, started_s: float = NOW_S) -> RunningResponse:
    return RunningResponse(one, one.client, one.address, "EWEB", sent_bytes, started_s)


def test_finished_responses_of_a_viewer_are_one_row() -> None:
    viewers = SeenViewers()
    for port in (5000, 5000, 5001):
        viewers.add(request(port=port), "EWEB", 1000)
    (row,) = viewers.rows((), NOW_S)
    assert (row.state, row.sent_bytes, row.requests) == ("seen", 3000, 3)
    assert (row.client, row.site, row.object) == ("", "www.example", "/film.mp4")
    assert row.id == viewer_id(viewer_key(request(), "192.0.2.1"))


def test_another_address_agent_or_site_is_another_viewer() -> None:
    viewers = SeenViewers()
    others = (
        request(),
        request(address="192.0.2.2"),
        request(agent="mpv"),
        request(host="films.example"),
    )
    for one in others:
        viewers.add(one, "EWEB", 1)
    assert len({row.id for row in viewers.rows((), NOW_S)}) == len(others)


def test_segments_of_a_film_are_one_viewer_of_the_newest_one() -> None:
    viewers = SeenViewers()
    for path in ("/film/index.m3u8", "/film/1.ts", "/film/2.ts"):
        viewers.add(request(path), "EWEB", 1000)
    (row,) = viewers.rows((), NOW_S)
    assert (row.object, row.requests, row.sent_bytes) == ("/film/2.ts", 3, 3000)
    assert viewers.count((), NOW_S) == 1


def test_row_has_the_object_of_the_response_that_began_last() -> None:
    viewers = SeenViewers()
    viewers.add(request("/page"), "EWEB", 1)
    on_their_way = [
        running(request("/b", port=5001), 200, NOW_S - 1),
        running(request("/a"), 100, NOW_S - 9),
    ]
    (row,) = viewers.rows(on_their_way, NOW_S)
    assert (row.object, row.state, row.client) == ("/b", "sending", "")
    assert (row.requests, row.sent_bytes, row.age_s) == (3, 301, 9.0)


def test_running_response_counts_its_bytes_until_it_has_finished() -> None:
    viewers = SeenViewers()
    (row,) = viewers.rows([running(request(), 700, NOW_S - 9)], NOW_S)
    assert (row.state, row.sent_bytes, row.age_s, row.idle_s) == ("sending", 700, 9.0, 0.0)
    assert row.client == "192.0.2.1:5000"
    viewers.add(request(), "EWEB", 900)
    (row,) = viewers.rows((), NOW_S + 1)
    assert (row.state, row.sent_bytes, row.requests) == ("seen", 900, 1)


def test_viewer_is_forgotten_after_a_while() -> None:
    viewers = SeenViewers()
    viewers.add(request(), "EWEB", 1)
    (row,) = viewers.rows((), NOW_S)
    (row,) = viewers.rows((), NOW_S + SEEN_S)
    assert row.idle_s == SEEN_S
    assert viewers.rows((), NOW_S + SEEN_S + 1) == []
    assert viewers.find(row.id) is None


def test_row_is_found_with_its_connections() -> None:
    viewers = SeenViewers()
    for port in range(3 * CLIENTS_MAX):
        viewers.add(request(port=port), "EWEB", 1)
    (row,) = viewers.rows((), NOW_S)
    match = viewers.find(row.id)
    assert match is not None
    key, clients = match
    assert key == viewer_key(request(), "192.0.2.1")
    newest = range(2 * CLIENTS_MAX, 3 * CLIENTS_MAX)
    assert clients == {f"192.0.2.1:{port}" for port in newest}


def test_responses_and_viewers_are_limited() -> None:
    viewers = SeenViewers()
    for number in range(FINISHED_MAX + 10):
        viewers.add(request(agent=f"agent {number}"), "EWEB", 1)
    assert viewers.skipped == 10
    assert len(viewers.rows((), NOW_S)) == VIEWERS_MAX
    crowd = [running(request(agent=f"running {number}")) for number in range(VIEWERS_MAX + 10)]
    rows = viewers.rows(crowd, NOW_S + 1)
    assert len(rows) <= VIEWERS_MAX
    assert {row.state for row in rows} == {"sending"}


def test_texts_of_viewers_are_cut() -> None:
    viewers = SeenViewers()
    viewers.add(request("/" + "x" * 8000, agent="<script>" * 999), "EWEB", 1)
    (row,) = viewers.rows((), NOW_S)
    assert len(row.object) == len(row.agent) == 256
