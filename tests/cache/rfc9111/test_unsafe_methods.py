"""Invalidation by unsafe methods: RFC 9111 §4.4."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.rfc9111.unsafe_methods import invalidated_targets, local_target

HOST = "www.example:8080"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH", "get"])
@pytest.mark.parametrize("status", [200, 201, 204, 303])
def test_successful_write_invalidates_its_target(method: str, status: int) -> None:
    assert invalidated_targets(method, status, HOST, "/a?b", {}) == ["/a?b"]


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("TRACE", 200), ("PUT", 404), ("POST", 500)],
)
def test_failed_writes_and_safe_methods_invalidate_nothing(method: str, status: int) -> None:
    assert invalidated_targets(method, status, HOST, "/a", {"location": "/b"}) == []


def test_location_and_content_location_are_invalidated_too() -> None:
    fields = {"location": "/made/1", "content-location": f"http://{HOST}/a/view?x=1#top"}
    assert invalidated_targets("POST", 201, HOST, "/a", fields) == ["/a", "/made/1", "/a/view?x=1"]


def test_each_target_is_invalidated_once() -> None:
    fields = {"location": "/a", "content-location": "/a"}
    assert invalidated_targets("PUT", 200, HOST, "/a", fields) == ["/a"]


@pytest.mark.parametrize(
    ("host", "reference", "target"),
    [
        (HOST, "/b", "/b"),
        (HOST, "b", "/dir/b"),
        (HOST, "../b?c", "/b?c"),
        (HOST, "?c", "/dir/a?c"),
        (HOST, "", "/dir/a"),
        (HOST, "//WWW.Example:8080/b", "/b"),
        (HOST, "https://www.example:8080", "/"),
        (HOST, "http://www.example/b", None),
        (HOST, "http://other.example:8080/b", None),
        (HOST, "//other.example/b", None),
        (HOST, "http://www.example:8080@other.example/b", None),
        (HOST, "ftp://www.example:8080/b", None),
        (HOST, "urn:x", None),
        (HOST, "http://www.example:99999/b", None),
        (HOST, "http://[::1/b", None),
        ("www.example", "http://www.example:80/b", "/b"),
        ("www.example", "https://www.example/b", "/b"),
        ("www.example:443", "https://www.example/b", "/b"),
        ("www.example", "https://www.example:80/b", None),
        ("[::1]:80", "http://[::1]/b", "/b"),
    ],
)
def test_only_targets_on_the_same_host_and_port_are_invalidated(
    host: str, reference: str, target: str | None
) -> None:
    assert local_target(host, "/dir/a", reference) == target


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_reference_gives_a_target_or_none(host: str, reference: str) -> None:
    target = local_target(host, "/a", reference)
    assert target is None or target.startswith("/")
