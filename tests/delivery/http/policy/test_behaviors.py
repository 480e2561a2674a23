"""The behavior of a path, the parts of its cache key, and what is forwarded to the origin."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.schema.field_names import (
    CONDITION_FIELDS,
    EDGE_OWNED,
    OVERRIDE_FIELDS,
    SCHEME_FIELDS,
)
from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE, Selection, SelectionMode
from streamedge.delivery.http.policy.behaviors import (
    Behavior,
    CachePolicy,
    OriginRequestPolicy,
    choose_behavior,
    forwarded_fields,
    forwarded_for,
    forwarded_query,
    key_parts,
    with_scheme,
)

NOTHING = OriginRequestPolicy()
ALL_VIEWER = OriginRequestPolicy(query_strings=SELECT_ALL, headers=SELECT_ALL, cookies=SELECT_ALL)


def only(*names: str) -> Selection:
    return Selection(SelectionMode.ONLY, names)


def but(*names: str) -> Selection:
    return Selection(SelectionMode.EXCEPT, names)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*", "/", True),
        ("images/*.jpg", "/images/a/b.jpg", True),
        ("/images/*.jpg", "images/a.jpg", True),
        ("images/*.jpg", "/images/a.JPG", False),
        ("images/*.jpg", "/other/images/a.jpg", False),
        ("a??.html", "/abc.html", True),
        ("a??.html", "/ab.html", False),
        ("a*b*c", "/abbc", True),
        ("a*b*c", "/acb", False),
        ("ab*ba", "/aba", False),
        ("a.b", "/axb", False),
        ("[a]", "/a", False),
        ("a*", "/a\nb", True),
        ("a", "/a\n", False),
    ],
)
def test_pattern_matches_as_in_cloudfront(pattern: str, path: str, matches: bool) -> None:
    assert Behavior(pattern, "site").matches(path) is matches


@given(st.text("ab/*?", max_size=12), st.text("ab/", max_size=16))
def test_pattern_matches_as_in_a_shell(pattern: str, path: str) -> None:
    shell = re.compile(fnmatch.translate(pattern.removeprefix("/")))
    expected = shell.match(path.removeprefix("/")) is not None
    assert Behavior(pattern, "site").matches(path) is expected


@given(st.text("ab/*?", max_size=8), st.text("ab/", max_size=6), st.text("ab/", max_size=6))
def test_pattern_that_matches_all_below_a_prefix_matches_each(
    pattern: str, prefix: str, rest: str
) -> None:
    behavior = Behavior(pattern, "site")
    if behavior.matches_all_below(prefix):
        assert behavior.matches(prefix + rest)
        assert behavior.may_match_below(prefix)


@pytest.mark.parametrize(
    ("pattern", "prefix", "expected"),
    [
        ("*", "", True),
        ("up/*", "up/", True),
        ("/up/*", "up/a/b", True),
        ("up*", "up/", True),
        ("up/*", "u", False),
        ("up/*.jpg", "up/", False),
        ("up/?*", "up/", False),
    ],
)
def test_prefix_below_which_a_pattern_matches_all(
    pattern: str, prefix: str, expected: bool
) -> None:
    assert Behavior(pattern, "site").matches_all_below(prefix) is expected


def test_hostile_path_is_matched_in_bounded_time() -> None:
    """With backtracking, this would take exponential time."""
    assert not Behavior("*a" * 120 + "b", "site").matches("/" + "a" * 8000)


def test_first_matching_behavior_is_chosen() -> None:
    first, second, default = (Behavior(p, p) for p in ("a/*", "a/b*", "*"))
    assert choose_behavior((first, second, default), "/a/b.txt") is first
    assert choose_behavior((second, first, default), "/a/b.txt") is second
    assert choose_behavior((first, second, default), "/c") is default
    with pytest.raises(LookupError):
        choose_behavior((first,), "/c")


@pytest.mark.parametrize(
    ("selection", "query", "selected"),
    [
        (SELECT_NONE, "a=1", ""),
        (SELECT_ALL, "b=2&a=1&&a=3", "b=2&a=1&&a=3"),
        (only("a"), "b=2&a=1&c&a=3", "a=1&a=3"),
        (only("a"), "A=1", ""),
        (only("a"), "a", "a"),
        (but("utm"), "utm=1&b=2&&utm", "b=2&"),
        # A parameter that an origin could take for a keyed one is in the key as a whole.
        (only("a"), "utm=1;a=2", "utm=1;a=2"),
        (only("a"), "%61=2", "%61=2"),
        (only("a"), "+a=2", "+a=2"),
        (but("utm"), "utm=1;a=2", "utm=1;a=2"),
        (but("utm"), "%75tm=1", "%75tm=1"),
        # The bytes do not change.
        (only("a"), "a=%7e%7E~+%20", "a=%7e%7E~+%20"),
    ],
)
def test_query_is_split_at_ampersands_and_its_bytes_do_not_change(
    selection: Selection, query: str, selected: str
) -> None:
    policy = CachePolicy(query_strings=selection)
    assert forwarded_query(policy, NOTHING, query) == selected
    assert key_parts(policy, "p", query, ()) == (("p", f"?{selected}") if selected else ("p",))


def test_forwarded_parameters_keep_their_order() -> None:
    policy = CachePolicy(query_strings=only("a"))
    request = OriginRequestPolicy(query_strings=only("c"))
    assert forwarded_query(policy, request, "c=1&b=2&a=3") == "c=1&a=3"


def test_default_key_is_the_path_alone() -> None:
    fields = (("Cookie", "a=1"), ("Accept-Language", "de"))
    assert key_parts(CachePolicy(), "film.mp4", "x=1", fields) == ("film.mp4",)


def test_headers_and_cookies_are_selected_by_name() -> None:
    policy = CachePolicy(headers=("accept-language",), cookies=only("sid"))
    fields = (
        ("ACCEPT-language", "de"),
        ("Cookie", "a=1; sid=7"),
        ("cookie", "sid=8;b=2"),
        ("X-Other", "1"),
    )
    assert key_parts(policy, "p", "", fields) == (
        "p",
        "accept-language: de",
        "cookie: sid=7; sid=8",
    )
    assert forwarded_fields(policy, NOTHING, "GET", fields) == [
        ("ACCEPT-language", "de"),
        ("Cookie", "sid=7; sid=8"),
    ]


def test_header_that_connection_lists_is_neither_keyed_nor_forwarded() -> None:
    """If it were keyed but not forwarded, one language's page would get another's key."""
    policy = CachePolicy(headers=("accept-language",), cookies=SELECT_ALL)
    fields = (
        ("Accept-Language", "de"),
        ("Cookie", "a=1"),
        ("Connection", "close, Accept-language"),
        ("connection", "COOKIE"),
    )
    assert key_parts(policy, "p", "", fields) == ("p",)
    assert forwarded_fields(policy, ALL_VIEWER, "GET", fields) == []


@pytest.mark.parametrize("name", sorted(EDGE_OWNED | CONDITION_FIELDS | OVERRIDE_FIELDS))
def test_all_viewer_policy_forwards_no_field_of_the_edge(name: str) -> None:
    fields = ((name.title(), "x"), ("X-Other", "1"))
    sent = forwarded_fields(CachePolicy(), ALL_VIEWER, "GET", fields)
    expected = [("X-Other", "1"), ("Cookie", "x")] if name == "cookie" else [("X-Other", "1")]
    assert sent == expected


@pytest.mark.parametrize("name", sorted(EDGE_OWNED | CONDITION_FIELDS | OVERRIDE_FIELDS))
@pytest.mark.parametrize("mark", ["_", ".", "!", "|"])
def test_all_viewer_policy_forwards_no_alias_of_a_field_of_the_edge(name: str, mark: str) -> None:
    """CGI, WSGI and Rack do not distinguish "X_Forwarded_Host" from "X-Forwarded-Host"."""
    fields = ((name.replace("-", mark) + mark * (name == name.replace("-", mark)), "x"),)
    for selection in (SELECT_ALL, but("x-other")):
        policy = OriginRequestPolicy(headers=selection)
        assert forwarded_fields(CachePolicy(), policy, "POST", fields) == []


def test_name_with_an_underscore_is_forwarded_where_a_policy_names_it() -> None:
    fields = (("X_Device", "tv"), ("Content_Length", "5"))
    named = OriginRequestPolicy(headers=only("x_device", "content_length"))
    assert forwarded_fields(CachePolicy(), named, "GET", fields) == [("X_Device", "tv")]


@pytest.mark.parametrize("name", ["x-forwarded-host", "x-original-url"])
def test_override_header_is_forwarded_only_by_name(name: str) -> None:
    fields = ((name, "evil.example"),)
    keyed = CachePolicy(headers=(name,))
    named = OriginRequestPolicy(headers=only(name))
    assert (
        forwarded_fields(CachePolicy(), OriginRequestPolicy(headers=but("a")), "GET", fields) == []
    )
    assert forwarded_fields(CachePolicy(), named, "GET", fields) == list(fields)
    assert forwarded_fields(keyed, NOTHING, "GET", fields) == list(fields)
    assert f"{name}: evil.example" in key_parts(keyed, "p", "", fields)


def test_viewer_host_can_be_keyed_and_is_never_forwarded() -> None:
    policy = CachePolicy(headers=("host",))
    assert key_parts(policy, "p", "", (("Host", "a.example"),)) == ("p", "host: a.example")
    assert forwarded_fields(policy, ALL_VIEWER, "GET", (("Host", "a.example"),)) == []


def test_except_selection_leaves_out_its_names() -> None:
    request = OriginRequestPolicy(headers=but("x-a"), cookies=but("a"))
    fields = (("X-A", "1"), ("X-B", "2"), ("Cookie", "a=1; b=2"))
    sent = forwarded_fields(CachePolicy(), request, "GET", fields)
    assert sent == [("X-B", "2"), ("Cookie", "b=2")]


@pytest.mark.parametrize(("method", "is_sent"), [("PUT", True), ("GET", False), ("OPTIONS", False)])
def test_write_forwards_its_conditions_and_content_fields(method: str, is_sent: bool) -> None:
    fields = (
        ("If-Match", '"1"'),
        ("Content-Type", "text/plain"),
        ("Content-MD5", "x"),
        ("Authorization", "y"),
        ("Content-Length", "4"),
        ("X-Other", "1"),
    )
    sent = forwarded_fields(CachePolicy(), NOTHING, method, fields)
    assert sent == (list(fields[:4]) if is_sent else [])


def test_forwarded_for_gets_the_client_appended() -> None:
    assert forwarded_for((), "192.0.2.1") == "192.0.2.1"
    fields = (("X-Forwarded-For", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2"))
    assert forwarded_for(fields, "192.0.2.1") == "10.0.0.1, 10.0.0.2, 192.0.2.1"


names = st.sampled_from(["a", "b", "utm"])
selections = st.one_of(
    st.sampled_from([SELECT_NONE, SELECT_ALL]),
    st.builds(
        Selection,
        st.sampled_from([SelectionMode.ONLY, SelectionMode.EXCEPT]),
        st.lists(names, min_size=1, max_size=2).map(tuple),
    ),
)
policies = st.builds(
    CachePolicy,
    query_strings=selections,
    cookies=selections,
    headers=st.lists(st.sampled_from(["x-a", "x-b"]), unique=True).map(tuple),
)
queries = st.text("ab=&;%6162+utm", max_size=12)
requests = st.tuples(
    st.text("p/?", max_size=3),
    queries,
    st.lists(
        st.tuples(
            st.sampled_from(["X-A", "x-b", "Cookie", "Connection", "Host", "Range"]),
            st.text("ab=;, x-", max_size=8),
        ),
        max_size=4,
    ),
)


@given(policies, requests, requests)
def test_equal_keys_give_equal_origin_requests(
    policy: CachePolicy,
    one: tuple[str, str, list[tuple[str, str]]],
    other: tuple[str, str, list[tuple[str, str]]],
) -> None:
    """What is forwarded is a function of the key: no unkeyed input can poison the cache."""

    def seen(request: tuple[str, str, list[tuple[str, str]]]) -> object:
        path, query, fields = request
        sent = forwarded_fields(policy, NOTHING, "GET", fields)
        lines = [(name.lower(), value) for name, value in sent]
        by_name = sorted(lines, key=lambda line: line[0])
        return path, forwarded_query(policy, NOTHING, query), by_name

    if key_parts(policy, *one) == key_parts(policy, *other):
        assert seen(one) == seen(other)


@given(queries, queries)
def test_parameter_that_reads_as_a_keyed_one_is_in_the_key(query: str, tail: str) -> None:
    """Cloaking: an unkeyed parameter that a lenient origin reads as the keyed "a"."""
    keyed = CachePolicy(query_strings=only("a"))
    for cloaked in ("utm=1;a=evil", "%61=evil", "utm;%61=evil"):
        whole = f"{query}&{cloaked}&{tail}"
        assert cloaked in forwarded_query(keyed, ALL_VIEWER, whole)
        assert any(cloaked in part for part in key_parts(keyed, "p", whole, ()))


@given(st.text(max_size=200), st.lists(st.tuples(st.text(max_size=20), st.text(max_size=60))))
def test_any_text_is_accepted(query: str, fields: list[tuple[str, str]]) -> None:
    policy = CachePolicy(query_strings=but("a"), headers=("x",), cookies=only("a"))
    assert key_parts(policy, "p", query, fields)[0] == "p"
    assert all(
        sent in fields or sent[0] == "Cookie"
        for sent in forwarded_fields(policy, ALL_VIEWER, "GET", fields)
    )


@pytest.mark.parametrize("name", ["cloudfront-viewer-country", "CloudFront-Forwarded-Proto"])
def test_fields_of_cloudfront_are_never_forwarded_with_all(name: str) -> None:
    for selection in (SELECT_ALL, but("x-other")):
        policy = OriginRequestPolicy(headers=selection)
        assert forwarded_fields(CachePolicy(), policy, "GET", ((name, "DE"),)) == []


@pytest.mark.parametrize("name", sorted(SCHEME_FIELDS))
@pytest.mark.parametrize("secure", [False, True])
def test_scheme_that_a_policy_names_is_the_true_one(name: str, secure: bool) -> None:
    scheme = "https" if secure else "http"
    claimed = ((name.title(), "https" if not secure else "http"), ("X-Other", "1"))
    for cache, request in (
        (CachePolicy(headers=(name,)), NOTHING),
        (CachePolicy(headers=(name,)), ALL_VIEWER),
        (CachePolicy(), OriginRequestPolicy(headers=only(name))),
    ):
        for sent in (claimed, (), (*claimed, *claimed)):
            fields = with_scheme(cache, request, sent, secure=secure)
            assert [field for field in fields if field[0].lower() == name] == [(name, scheme)]
            assert (name, scheme) in forwarded_fields(cache, request, "GET", fields)
            expected = ("p", f"{name}: {scheme}") if cache.headers else ("p",)
            assert key_parts(cache, "p", "", fields) == expected


def test_scheme_that_no_policy_names_changes_nothing() -> None:
    fields = (("X-Forwarded-Proto", "https"), ("X-Other", "1"))
    for request in (NOTHING, ALL_VIEWER, OriginRequestPolicy(headers=but("x-forwarded-proto"))):
        assert with_scheme(CachePolicy(), request, fields, secure=False) is fields
