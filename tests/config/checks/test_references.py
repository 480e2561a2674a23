"""Checks between keys, on documents of any shape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.checks.references import cross_mistakes
from streamedge.config.errors.mistakes import Mistake, nearest

names = st.sampled_from(
    [
        *("origins", "distributions", "listen", "http", "rtmp", "admin", "id", "type", "origin"),
        *("aliases", "application", "s3", "web", "access_key_id", "secret_access_key", ":80", "*"),
        *("origin_groups", "cache_policies", "origin_request_policies", "certificates"),
        *("response_headers_policies", "behaviors", "error_pages", "path", "methods", "PATCH"),
        *("fleet", "tiers", "tier", "engine", "ca", "name", "edge"),
        *("cors", "credentials", "headers", "remove", "min_ttl", "viewer_protocol", "status"),
        *("response_status", "default_ttl", "cache_policy", "client_key", "url", "https"),
    ]
)
documents = st.dictionaries(
    names,
    st.recursive(
        names | st.integers() | st.booleans(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    ),
)


@given(documents)
def test_any_document_is_checked_without_an_exception(document: dict[str, object]) -> None:
    for mistake in cross_mistakes(document):
        assert isinstance(mistake, Mistake)
        assert mistake.text.isprintable()


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["web", "rtmp"]),
                "aliases": st.lists(st.sampled_from("abc"), unique=True),
                "application": st.lists(st.sampled_from("xyz"), unique=True),
            }
        ),
        max_size=5,
    )
)
def test_alias_is_a_mistake_exactly_if_a_request_matches_two_distributions(
    distributions: list[dict[str, object]],
) -> None:
    """Compared with a direct enumeration of all requests and their distributions."""
    matches: dict[tuple[object, str, str], int] = {}
    for distribution in distributions:
        applications = distribution["application"] if distribution["type"] == "rtmp" else ["-"]
        for alias in distribution["aliases"]:  # type: ignore[attr-defined]
            for application in applications:  # type: ignore[attr-defined]
                request = (distribution["type"], alias, application)
                matches[request] = matches.get(request, 0) + 1
    mistakes = [
        m for m in cross_mistakes({"distributions": distributions}) if m.key[-1] == "aliases"
    ]
    assert bool(mistakes) == any(count > 1 for count in matches.values())


def test_nearest_name_is_suggested_only_if_it_is_similar() -> None:
    assert nearest("regoin", ("region", "bucket"), "-") == 'did you mean "region"?'
    assert nearest("s4", ("directory", "http", "s3"), "-") == 'did you mean "s3"?'
    assert nearest("colour", ("region", "bucket"), "-") == "-"
    assert nearest("x" * 1_000_000, ("region",), "-") == "-"
