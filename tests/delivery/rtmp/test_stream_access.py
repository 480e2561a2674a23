"""streamedge/delivery/rtmp/stream_access.py: pages, countries, signatures by botocore."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.admission import (
    NO_MATCH,
    RESOURCES_LIMIT,
    AccessRules,
    CountryRule,
    Denied,
)
from streamedge.access.keys import HashName, PublicKey
from streamedge.access.signature_cache import SignatureCache
from streamedge.access.wildcards import compile_pattern
from streamedge.delivery.rtmp.protocol.events import Connect
from streamedge.delivery.rtmp.stream_access import (
    KEY_ID_LOGGED_MAX,
    NOT_ALLOWED,
    Client,
    RedactedName,
    country_rejection,
    page_rejection,
    permitted_objects,
    redact_name,
)
from streamedge.delivery.rtmp.stream_names import (
    ApplicationMatch,
    StreamName,
    candidates,
    choose_application,
    stream_names,
)
from tests.support.rtmp.rtmp_signer import StreamSigner, changed, ecdsa_signer, rsa_signer

NOW_S = 1_800_000_000.0
LATER_S = NOW_S + 60
RSA, ECDSA = rsa_signer(), ecdsa_signer()
APPLICATIONS = ("cfx/st", "vod")


class Viewer(NamedTuple):
    """The connect of a client, and its address."""

    app: str = "cfx/st"
    tc_url: str = "rtmp://film.example/cfx/st"
    address: str = "192.0.2.7"

    @property
    def connect(self) -> Connect:
        return connect(self.app, self.tc_url)


PLAIN = Viewer()


def connect(app: str = "cfx/st", tc_url: str = "", page_url: str = "") -> Connect:
    return Connect(1.0, app, tc_url, "", page_url, "", (), {}, {}, 0, {})


def allowed(
    name: str, viewer: Viewer = PLAIN, *, signer: StreamSigner = RSA, now_s: float = NOW_S
) -> tuple[str, ...] | Denied:
    """The objects that a viewer may play by ``name``, in a distribution that trusts ``signer``."""
    chosen = choose_application(viewer.app, viewer.tc_url, [APPLICATIONS])
    assert chosen is not None
    _, match = chosen
    rules = AccessRules({signer.key_id: signer.public_key})
    client = Client(viewer.connect, viewer.address)
    streams = stream_names(match, name)
    return permitted_objects(rules, client, match.application, streams, now_s, SignatureCache())


def readings(name: str, folder: str = "") -> tuple[StreamName, ...]:
    """The candidate objects of a name in the application cfx/st."""
    return stream_names(ApplicationMatch("cfx/st", folder), name)


def objects_of(name: str) -> list[str]:
    return candidates(*readings(name))


def sign_name(signed: str, name: str) -> str:
    """``name`` with the signature of ``signed``."""
    return f"{name}?{signed.rpartition('?')[2]}"


# The names that players send, and the names that were signed


@pytest.mark.parametrize("signer", [RSA, ECDSA], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize(
    "name", ["dir/film.mp4", "mp4:dir/film.mp4", "mp4:dir/film", "/dir/film.mp4"]
)
@pytest.mark.parametrize(
    "resource",
    [
        "dir/film.mp4",
        "dir/film",
        "mp4:dir/film.mp4",
        "/dir/film.mp4",
        "rtmp://film.example/cfx/st/dir/film.mp4",
        "rtmp://film.example/cfx/st/mp4:dir/film.mp4",
        "rtmp://film.example:1935/cfx/st/dir/film",
    ],
)
def test_each_signed_name_of_an_object_is_accepted(
    signer: StreamSigner, resource: str, name: str
) -> None:
    signed = sign_name(signer.canned(resource, LATER_S), name)
    objects = allowed(signed, signer=signer)
    assert "dir/film.mp4" in objects
    # A custom policy for the same resource allows the same.
    signed = sign_name(signer.custom(resource, LATER_S, covering=resource), name)
    assert allowed(signed, signer=signer) == objects


@pytest.mark.parametrize(
    ("resource", "name", "viewer"),
    [
        # The tcUrl of ffmpeg and librtmp has the port; Flash sends the URL unchanged.
        ("rtmp://film.example/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmp://film.example:1935/cfx/st")),
        ("rtmp://film.example:1935/cfx/st/film.flv", "film.flv", Viewer()),
        ("rtmp://film.example:8080/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmp://film.example:8080/cfx/st")),
        ("rtmps://film.example/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmps://film.example/cfx/st")),
        ("rtmp://[2001:db8::1]/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmp://[2001:db8::1]/cfx/st")),
        # A player that sent the folder as a part of the application.
        ("dir/film.flv", "film.flv", Viewer("vod/dir", "rtmp://film.example/vod/dir")),
        ("mp4:dir/film.mp4", "mp4:film.mp4", Viewer("vod/dir", "rtmp://film.example/vod/dir")),
        ("rtmp://film.example/vod/dir/film.flv", "film.flv",
         Viewer("vod/dir", "rtmp://film.example/vod/dir")),
        ("rtmp://film.example/vod/_definst_/film.flv", "film.flv",
         Viewer("vod/_definst_", "rtmp://film.example/vod/_definst_")),
        ("mp3:song.mp3", "song.mp3", Viewer()),
        ("flv:film.flv", "film.flv", Viewer()),
        ("mp4:film.m4a", "film.m4a", Viewer()),
        ("film one.mp4", "film%20one.mp4", Viewer()),
        ("film%20one.mp4", "film%20one.mp4", Viewer()),
        ("film%20one", "mp4:film%20one", Viewer()),
        ("rtmp://film.example/cfx/st/film%20one.mp4", "film%20one.mp4", Viewer()),
        ("été.flv", "%C3%A9t%C3%A9.flv", Viewer()),
        ("été.flv", "été.flv", Viewer()),
    ],
)  # fmt: skip
def test_each_url_form_of_players_is_accepted(resource: str, name: str, viewer: Viewer) -> None:
    assert not isinstance(allowed(sign_name(RSA.canned(resource, LATER_S), name), viewer), Denied)


@pytest.mark.parametrize(
    "encode",
    [
        lambda name: name.replace("?", "%3F").replace("=", "%3D").replace("&", "%26"),
        lambda name: name.replace("?", "%3f").replace("=", "%3d").replace("&", "%26"),
        lambda name: name.replace("=", "%3D").replace("&", "%26"),
        lambda name: name.replace("?", "%3F"),
        lambda name: quote(name, safe=""),
    ],
    ids=["all", "lower case", "after the mark", "the mark", "everything"],
)
def test_names_encoded_by_pages_are_accepted(encode: object) -> None:
    assert callable(encode)
    for signed in (
        RSA.canned("mp4:dir/film.mp4", LATER_S),
        RSA.custom("mp4:dir/film.mp4", LATER_S, covering="dir/*"),
    ):
        assert allowed(encode(signed)) == ("dir/film.mp4",)
        assert isinstance(allowed(encode(changed(signed, len(signed) - 1))), Denied)


def test_rest_of_the_query_is_signed_too() -> None:
    signed = RSA.canned("film.flv?color=red&size=1", LATER_S)
    assert allowed(signed) == ("film.flv",)
    assert isinstance(allowed(signed.replace("color=red", "color=blue")), Denied)
    assert isinstance(allowed(signed.replace("?color=red&size=1&", "?")), Denied)
    assert isinstance(allowed(RSA.canned("film.flv", LATER_S) + "&color=red"), Denied)
    assert allowed(RSA.custom("film.flv?color=red", LATER_S, covering="film*")) == ("film.flv",)


# Objects that a signature does not cover


def test_signed_extension_is_the_only_one_allowed() -> None:
    everything = ("film.flv", "film", "film.mp4", "film.mp3")
    assert allowed(sign_name(RSA.canned("film.mp4", LATER_S), "film")) == ("film.mp4",)
    assert allowed(sign_name(RSA.canned("film.mp3", LATER_S), "film")) == ("film.mp3",)
    assert allowed(sign_name(RSA.canned("film", LATER_S), "film")) == everything
    assert allowed(sign_name(RSA.custom("x", LATER_S, covering="*.mp?"), "film")) == everything[2:]
    assert isinstance(allowed(sign_name(RSA.canned("film.mp4", LATER_S), "film.flv")), Denied)
    assert isinstance(allowed(sign_name(RSA.canned("film.avi", LATER_S), "film")), Denied)


@pytest.mark.parametrize(
    ("covering", "name", "viewer"),
    [
        # The folder is in tcUrl, but not in the application, where it is needed.
        ("rtmp://film.example/cfx/st/free/*", "film.flv",
         Viewer(tc_url="rtmp://film.example/cfx/st/free")),
        ("rtmp://film.example/cfx/st/free/film.flv", "film.flv",
         Viewer(tc_url="rtmp://film.example/cfx/st/free")),
        # An allowed name in another folder.
        ("film.flv", "film.flv", Viewer("cfx/st/paid", "rtmp://film.example/cfx/st/paid")),
        ("rtmp://film.example/cfx/st/film.flv", "film.flv",
         Viewer("cfx/st/paid", "rtmp://film.example/cfx/st")),
        ("rtmp://film.example/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmp://other.example/cfx/st")),
        ("rtmp://film.example/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmp://film.example:8080/cfx/st")),
        ("rtmp://film.example/cfx/st/film.flv", "film.flv",
         Viewer(tc_url="rtmps://film.example/cfx/st")),
        ("rtmp://film.example/cfx/st/film.flv", "film.flv", Viewer(tc_url="film.example/cfx/st")),
        ("rtmp://a/*", "film.flv", Viewer(tc_url="rtmp://a/x@film.example/cfx/st", app="cfx/st/y")),
        ("free/*", "paid/film.flv", Viewer()),
        ("free", "free/film.flv", Viewer()),
        ("dir/film.mp", "dir/film.mp%34", Viewer()),
    ],
)  # fmt: skip
def test_unsigned_object_is_refused(covering: str, name: str, viewer: Viewer) -> None:
    if covering == "rtmp://a/*":  # the client chose this URL, and only its host is checked
        assert not isinstance(
            allowed(sign_name(RSA.canned("y/film.flv", LATER_S), name), viewer), Denied
        )
        covering = "rtmp://x@film.example/*"
    signed = RSA.custom("x", LATER_S, covering=covering)
    assert allowed(sign_name(signed, name), viewer) == Denied("policy is for another resource")


@pytest.mark.parametrize("signer", [RSA, ECDSA], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize("kind", ["canned", "custom"])
def test_any_changed_character_is_refused(signer: StreamSigner, kind: str) -> None:
    name = "mp4:dir/film.mp4"
    if kind == "canned":
        signed = signer.canned(name, LATER_S)
    else:
        signed = signer.custom(name, LATER_S, covering=name)
    assert allowed(signed, signer=signer) == ("dir/film.mp4",)
    for at in range(len(signed)):
        other = changed(signed, at)
        if not objects_of(other):
            continue
        assert isinstance(allowed(other, signer=signer), Denied), other


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("film.flv", "not signed"),
        ("film", "not signed"),
        ("film.flv?Expires=1", "not signed"),
        (RSA.canned("film.flv", NOW_S - 1), "expired"),
        (RSA.canned("film.flv", NOW_S), "expired"),
        (RSA.custom("film.flv", NOW_S - 1, covering="film*"), "expired"),
        (RSA.custom("film.flv", LATER_S, covering="*", from_s=NOW_S + 1), "not yet valid"),
        (RSA.custom("film.flv", LATER_S, covering="*", network="192.0.2.8"),
         "address is not allowed"),
        (RSA.canned("film.flv", LATER_S).replace(RSA.key_id, "KOTHER"), "key is not trusted"),
        (RSA.canned("other.flv", LATER_S).replace("other", "film"), "signature does not match"),
        (sign_name(RSA.custom("x", NOW_S - 1, covering="film.mp4"), "film"),
         "expired"),
    ],
)  # fmt: skip
def test_reason_of_a_refusal_is_logged(name: str, reason: str) -> None:
    assert allowed(name) == Denied(reason)


@pytest.mark.parametrize(
    "name",
    [
        "film.flv?Signature=x",
        RSA.canned("film.flv", LATER_S) + "&Expires=1800000060",
        RSA.canned("film.flv", LATER_S).replace("?", "??"),
        RSA.canned("film.flv", LATER_S).replace("Expires", "expires"),
        RSA.canned("film.flv", LATER_S).replace(f"&Key-Pair-Id={RSA.key_id}", ""),
    ],
)
def test_malformed_signature_is_refused(name: str) -> None:
    assert isinstance(allowed(name), Denied)


def test_signature_needs_a_known_address() -> None:
    signed = RSA.custom("film.flv", LATER_S, covering="*", network="192.0.2.0/24")
    assert allowed(signed) == ("film.flv",)
    assert allowed(signed, Viewer(address="::ffff:192.0.2.9")) == ("film.flv",)
    assert isinstance(allowed(signed, Viewer(address="2001:db8::1")), Denied)
    assert allowed(signed, Viewer(address="")) == Denied("the viewer's address is unknown")


def test_signature_size_is_limited() -> None:
    signed = RSA.canned("film.flv", LATER_S)
    client = Client(connect(), "192.0.2.7")
    rules = AccessRules({RSA.key_id: RSA.public_key})

    def with_limit(limit_bytes: int) -> object:
        streams = readings(signed)
        return permitted_objects(
            rules, client, "cfx/st", streams, NOW_S, SignatureCache(), limit_bytes
        )

    assert with_limit(344) == ("film.flv",)  # base64 of 256 bytes
    assert with_limit(343) == Denied("signature is too long")


def test_open_distribution_needs_no_signature() -> None:
    client = Client(connect(), "")
    for name in ("film.flv", "film.flv?Signature=x", "film"):
        objects = permitted_objects(
            AccessRules(), client, "cfx/st", readings(name), NOW_S, SignatureCache()
        )
        assert objects == tuple(objects_of(name))


def test_empty_key_groups_refuse_everyone() -> None:
    streams = readings(RSA.canned("film.flv", LATER_S))
    client = Client(connect(), "192.0.2.7")
    objects = permitted_objects(AccessRules({}), client, "cfx/st", streams, NOW_S, SignatureCache())
    assert objects == Denied("key is not trusted")


def test_seek_does_not_verify_the_signature_again() -> None:
    signed = RSA.canned("dir/film.mp4", LATER_S)
    remembered = SignatureCache()
    rules = AccessRules({RSA.key_id: RSA.public_key})
    client = Client(Viewer().connect, "192.0.2.7")
    for _ in range(3):
        objects = permitted_objects(rules, client, "cfx/st", readings(signed), NOW_S, remembered)
        assert objects == ("dir/film.mp4",)
        assert len(remembered) == 1


# Properties


@given(
    path=st.text(st.sampled_from("abé /%2.:?"), max_size=12),
    extension=st.sampled_from(["", ".mp4", ".flv", ".mp3", ".%6dp4"]),
    prefix=st.sampled_from(["", "mp4:", "mp3:", "flv:"]),
    folder=st.sampled_from(["", "dir", "d%20r"]),
    query=st.sampled_from(["", "Expires=1&Signature=a&Key-Pair-Id=" + RSA.key_id, "a=b"]),
)
def test_any_name_is_allowed_or_denied(
    path: str, extension: str, prefix: str, folder: str, query: str
) -> None:
    name = f"{prefix}{path}{extension}?{query}"
    streams = readings(name, folder)
    client = Client(connect(f"vod/{folder}", "rtmp://film.example:1935/vod"), "192.0.2.7")
    rules = AccessRules({RSA.key_id: RSA.public_key})
    objects = permitted_objects(rules, client, "vod", streams, NOW_S, SignatureCache())
    assert isinstance(objects, Denied if any(map(candidates, streams)) else tuple)


@pytest.mark.parametrize(
    "path",
    ["film", "film.mp4", "mp4:film", "mp4:film%20one", "mp4:été", "mp4:%C3%A9t%C3%A9", "été.mp4"],
)
def test_wrong_signature_costs_at_most_one_verification_budget(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    tried = verifications(monkeypatch)
    viewer = Viewer("vod/dir", "rtmp://film.example:1935/vod/dir")
    assert allowed(sign_name(RSA.canned("other", LATER_S), path), viewer) == Denied(NO_MATCH)
    assert 0 < len(tried) == len(set(tried)) <= RESOURCES_LIMIT
    tried.clear()
    signed = sign_name(RSA.custom("other", LATER_S, covering="*"), path)
    assert allowed(changed(signed, signed.index("Signature=") + 50), viewer) == Denied(NO_MATCH)
    assert len(tried) == 1


@pytest.mark.parametrize("path", ["film", "mp4:film", "mp4:film%20one", "mp4:été"])
def test_each_candidate_object_is_tried_within_the_budget(path: str) -> None:
    for each in objects_of(path):
        assert each in allowed(sign_name(RSA.canned(each, LATER_S), path))


def test_likeliest_signed_name_is_verified_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = verifications(monkeypatch)
    for resource in ("film.mp4", "mp4:film.mp4", "film", "mp4:film"):
        tried.clear()
        assert allowed(sign_name(RSA.canned(resource, LATER_S), "mp4:film"))
        assert len(tried) <= 4


def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The signed names that are verified from now on."""
    tried: list[bytes] = []
    verifies = PublicKey.verifies

    def counted(key: PublicKey, signature: bytes, message: bytes, hash_name: HashName) -> bool:
        tried.append(message)
        return verifies(key, signature, message, hash_name)

    monkeypatch.setattr(PublicKey, "verifies", counted)
    return tried


# Pages and countries


@pytest.mark.parametrize(
    ("page", "is_let_in"),
    [
        ("https://www.example.com/", True),
        ("https://www.example.com/films?id=1", True),
        ("https://www.example.com/films#top", True),
        ("http://film.example/player/1.html", True),
        ("http://film.example/player/12.html", False),
        ("http://www.example.com/", False),
        ("https://www.example.com.evil.example/", False),
        ("https://evil.example/https://www.example.com/", False),
        ("", False),
        ("#https://www.example.com/", False),
    ],
)
def test_page_rules_reject_other_pages(page: str, is_let_in: bool) -> None:
    pages = [
        compile_pattern(pattern)
        for pattern in ("https://www.example.com/*", "http://film.example/player/?.html")
    ]
    rejection = page_rejection(pages, connect(page_url=page))
    assert (rejection is None) is is_let_in
    if rejection is not None:
        assert rejection.code == "NetConnection.Connect.Rejected"
        assert rejection.description == NOT_ALLOWED
        assert "page" in rejection.reason


def test_any_page_is_allowed_without_page_rules() -> None:
    assert page_rejection([], connect(page_url="https://anywhere.example/")) is None
    assert page_rejection([], connect()) is None


@pytest.mark.parametrize(
    ("rule", "country", "reason"),
    [
        (None, "DE", None),
        (None, "", None),
        (CountryRule(frozenset({"DE"}), True, False), "DE", None),
        (CountryRule(frozenset({"DE"}), True, False), "FR", "country FR is not allowed"),
        (CountryRule(frozenset({"DE"}), False, True), "DE", "country DE is not allowed"),
        (CountryRule(frozenset({"DE"}), False, False), "", "country unknown is not allowed"),
        (CountryRule(frozenset({"DE"}), True, True), "", None),
    ],
)
def test_country_rules_reject_other_countries(
    rule: CountryRule | None, country: str, reason: str | None
) -> None:
    rejection = country_rejection(AccessRules(None, rule), country)
    assert (rejection.reason if rejection else None) == reason
    assert rejection is None or rejection.description == NOT_ALLOWED


# Redacted names


@pytest.mark.parametrize(
    ("name", "redacted"),
    [
        ("mp4:film.mp4", ("mp4:film.mp4", "")),
        ("film?color=red", ("film?color=red", "")),
        ("film%3Fcolor", ("film%3Fcolor", "")),
        ("film?Expires=5", ("film?Expires=5", "")),
        ("mp4:film?Expires=5&Signature=SECRET&Key-Pair-Id=K1", ("mp4:film", "K1")),
        ("mp4:film?a=b&Policy=SECRET&Signature=SECRET&Key-Pair-Id=K1&c", ("mp4:film?a=b&c", "K1")),
        ("film%3FExpires%3D5%26Signature%3DSECRET%26Key-Pair-Id%3DK1", ("film", "K1")),
        ("film?Signature=SECRET", ("film", "")),
        ("film?a=b?Expires=5&Signature=SECRET", ("film?a=b?Expires=5", "")),
        ("film?a=b?Signature=SECRET&c=d", ("film?a=b?Signature=…&c=d", "")),
        ("film/Signature%3DSECRET%26a", ("film/Signature%3D…%26a", "")),
        ("film?Signature=SECRET&Signature=SECRET&Key-Pair-Id=K1", ("film", "")),
        (
            "rtmp://h/cfx/st?Policy=SECRET&Signature=SECRET&Key-Pair-Id=K1",
            ("rtmp://h/cfx/st", "K1"),
        ),
        ("", ("", "")),
    ],
)
def test_name_is_redacted(name: str, redacted: tuple[str, str]) -> None:
    assert redact_name(name) == RedactedName(*redacted)


@given(st.text(), st.text(max_size=300))
def test_redacted_name_has_no_signature(name: str, key_id: str) -> None:
    redacted = redact_name(
        f"{name.replace('&', '')}?Signature=SECRET&Policy=SECRET&Key-Pair-Id={key_id}"
    )
    assert re.search("SECRET", redacted.text) is None
    assert len(redacted.key_id) <= KEY_ID_LOGGED_MAX
