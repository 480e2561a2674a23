"""Different things have different cache keys, whichever code builds the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.build.origins import origin_identity
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.rfc9111.vary import variant_key
from streamedge.cache.storage.records import Asset, key_hash, version_digest
from streamedge.config.schema.config import Config
from streamedge.config.schema.selection import SELECT_ALL
from streamedge.delivery.hosts import Distribution, OriginBinding
from streamedge.delivery.http.compression.compressor import encoded_key
from streamedge.delivery.http.compression.negotiation import ContentCoding
from streamedge.delivery.http.policy.behaviors import Behavior, CachePolicy
from streamedge.delivery.http.request.cache_request import asset_key
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route, Rule, WebDistribution
from streamedge.keys import join_key, key_bytes, split_key
from streamedge.media.containers.packager import segment_key
from streamedge.media.packager import packaged_asset
from streamedge.origin import OriginHead, Version

# Characters that separate the parts of keys somewhere, and those of length prefixes.
_EVIL = st.text(st.sampled_from('a0123:\n\0\r |?=,;/"-\ud800é'), max_size=6)
_TEXT = st.one_of(_EVIL, st.text(max_size=8))
_FIELD_VALUE = st.text(st.sampled_from("a01: ;=,?"), max_size=4)
_VERSIONS = st.builds(
    Version, _TEXT, st.integers(0, 20), st.none() | st.integers(0, 20), st.just("")
) | st.builds(Version, _TEXT, st.just(5), st.none(), _TEXT.filter(bool))

Thing = tuple[Any, ...]


def _binding(identity: str) -> OriginBinding:
    return OriginBinding("o", identity, cast(Any, None), cast(Any, None))


def _object_key(identity: str, name: str) -> str:
    distribution = Distribution("E", ("*",), _binding(identity), TtlRules())
    return distribution.asset(name).key


def _request_key(identity: str, name: str, query: str, fields: tuple[tuple[str, str], ...]) -> str:
    policy = CachePolicy(query_strings=SELECT_ALL, headers=("x-a", "x-b"), cookies=SELECT_ALL)
    rule = Rule(Behavior("*", "o", cache=policy), _binding(identity), TtlRules())
    distribution = WebDistribution("E", ("*",), (rule,))
    request = WebRequest("GET", "edge", b"/", {}, "", True, 0.0, fields=fields)
    return asset_key(Route(distribution, rule, name, query), policy, request)


def _packaged_key(key: str, version: Version) -> str:
    source = Asset(key, "film", cast(Any, None), "o", TtlRules())
    nothing = cast(Any, None)
    return packaged_asset(nothing, source, OriginHead(version, ""), 1, nothing).key


def _segment_key(key: str, version: Version, part: str) -> str:
    return segment_key(key, part, version)


_objects = st.builds(lambda i, n: (("object", i, n), _object_key(i, n)), _TEXT, _TEXT)
_fields = st.lists(
    st.tuples(st.sampled_from(["x-a", "x-b"]), _FIELD_VALUE)
    | st.tuples(st.just("cookie"), st.sampled_from(["a=1", "b", "a=1; b"])),
    max_size=3,
).map(lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0])))


def _request_thing(
    identity: str, name: str, query: str, fields: tuple[tuple[str, str], ...]
) -> Thing:
    key = _request_key(identity, name, query, fields)
    if not query and not fields:
        return ("object", identity, name), key  # of RTMP and of HTTP it is the same thing
    cookies = "; ".join(value for field, value in fields if field == "cookie")
    others = tuple(pair for pair in fields if pair[0] != "cookie")
    return ("request", identity, name, query, others, cookies), key


_requests = st.builds(_request_thing, _TEXT, _TEXT, _TEXT, _fields)


def _derived(base: st.SearchStrategy[Thing]) -> st.SearchStrategy[Thing]:
    def of(kind: str, make: Callable[..., str], *parts: st.SearchStrategy[Any]) -> Any:
        return st.builds(
            lambda thing, *values: ((kind, thing[0], *values), make(thing[1], *values)),
            base,
            *parts,
        )

    varying = st.dictionaries(st.sampled_from(["x", "y"]), _FIELD_VALUE.map(lambda v: f"v{v}v"))
    names = ("x", "y")

    def variant(key: str, values: tuple[tuple[str, str], ...]) -> str:
        return variant_key(key, names, dict(values))

    return st.one_of(
        of("compressed", encoded_key, _VERSIONS, st.sampled_from(ContentCoding)),
        of("flv", _packaged_key, _VERSIONS),
        of("segment", _segment_key, _VERSIONS, _TEXT),
        of("variant", variant, varying.map(lambda pairs: tuple(sorted(pairs.items())))),
    )


_things = st.recursive(_objects | _requests, _derived, max_leaves=3)


def _plain(thing: Any) -> Any:
    """A thing as a variant sees it: lists are compared without the space between members."""
    if isinstance(thing, tuple) and thing and thing[0] == "variant":
        values = tuple(
            (name, ",".join(member.strip(" ") for member in value.split(",")))
            for name, value in thing[2]
        )
        return "variant", _plain(thing[1]), values
    return tuple(map(_plain, thing)) if type(thing) is tuple else thing


@settings(max_examples=400, deadline=None)
@given(_things, _things)
def test_different_things_have_different_keys(one: Thing, other: Thing) -> None:
    assert (one[1] == other[1]) == (_plain(one[0]) == _plain(other[0]))
    assert (key_hash(one[1]).digest == key_hash(other[1]).digest) == (one[1] == other[1])


@settings(max_examples=400, deadline=None)
@given(_TEXT, _VERSIONS, st.integers(0, 12), _TEXT, _VERSIONS, st.integers(0, 12))
def test_different_extents_have_different_files(
    key: str, version: Version, extent: int, key2: str, version2: Version, extent2: int
) -> None:
    def thing(key: str, version: Version, extent: int) -> Thing:
        return key, extent, version.id or version

    one, other = (key, version, extent), (key2, version2, extent2)
    assert (version_digest(*one) == version_digest(*other)) == (thing(*one) == thing(*other))


@given(st.lists(_TEXT))
def test_key_is_split_into_its_parts(parts: list[str]) -> None:
    assert split_key(join_key(*parts)) == tuple(parts)


@given(_TEXT)
def test_split_key_raises_for_other_texts(text: str) -> None:
    try:
        parts = split_key(text)
    except ValueError:
        return
    assert join_key(*parts) == text or any(part != part.lstrip("0") for part in text.split(":"))


@given(_TEXT, _TEXT)
def test_different_keys_have_different_bytes(one: str, other: str) -> None:
    assert (key_bytes(one) == key_bytes(other)) == (one == other)


_PLACES = st.text(st.sampled_from("ab /"), min_size=1, max_size=4).map(lambda text: f"/{text}b")
_PREFIXES = st.text(st.sampled_from("ab "), max_size=3).map(lambda text: f"x{text}x".strip())


@settings(deadline=None)
@given(_PLACES, _PREFIXES, _PLACES, _PREFIXES)
def test_different_folders_have_different_identities(
    path: str, prefix: str, path2: str, prefix2: str
) -> None:
    def identity(path: str, prefix: str) -> str:
        declared = {"type": "directory", "path": path, "prefix": prefix}
        config = Config.model_validate({"origins": {"o": declared}})
        return origin_identity(config.origins["o"])

    same = (Path(path), prefix) == (Path(path2), prefix2)
    assert (identity(path, prefix) == identity(path2, prefix2)) == same
