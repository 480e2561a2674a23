"""The life of a distribution of either kind, call by call, and everything that is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from streamedge.api.errors import ApiError
from streamedge.api.operations.handlers import api_handlers
from streamedge.api.protocol.service import Call
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ControlLog, RowKind
from tests.support.cloudfront_api import (
    NOW_S,
    Api,
    behavior,
    listing,
    server,
    streaming,
    web,
)

MEMBERS = ("Distribution", "StreamingDistribution")
both_kinds = pytest.mark.parametrize("member", MEMBERS)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def document(member: str, reference: str = "one", **more: Any) -> dict[str, Any]:
    make = web if member == "Distribution" else streaming
    return make(reference, **more)


def create(api: Api, member: str, reference: str = "one", **more: Any) -> dict[str, Any]:
    said = {f"{member}Config": document(member, reference, **more)}
    return api(f"Create{member}", **said)


# --- a whole life -------------------------------------------------------------------------


@both_kinds
def test_a_distribution_lives_and_ends(api: Api, member: str) -> None:
    made = create(api, member, Comment="first", Aliases=listing("a.example.org"))
    shown = made[member]
    identifier, etag = shown["Id"], made["ETag"]
    path = "distribution" if member == "Distribution" else "streaming-distribution"
    assert made["Location"] == f"/2020-05-31/{path}/{identifier}"
    assert shown["Status"] == "Deployed"
    assert shown["LastModifiedTime"].timestamp() == NOW_S
    assert shown["DomainName"] == f"{identifier.lower()}.fra-1.streamedge"
    assert shown["ARN"] == f"arn:aws:cloudfront::000000000000:{path}/{identifier}"
    assert len(identifier) == 14
    assert identifier.isalnum()
    assert identifier.isupper()
    assert api(f"Get{member}", Id=identifier) == {member: shown, "ETag": etag}

    got = api(f"Get{member}Config", Id=identifier)
    assert got == {f"{member}Config": shown[f"{member}Config"], "ETag": etag}
    changed = {**got[f"{member}Config"], "Comment": "second", "Enabled": False}
    api.now_s += 60
    updated = api(f"Update{member}", Id=identifier, IfMatch=etag, **{f"{member}Config": changed})
    assert updated["ETag"] != etag
    assert updated[member][f"{member}Config"] == changed
    assert updated[member]["LastModifiedTime"].timestamp() == NOW_S + 60

    (listed,) = (
        one for one in api(f"List{member}s")[f"{member}List"]["Items"] if one["Id"] == identifier
    )
    assert listed["Comment"] == "second"
    assert listed["Enabled"] is False
    assert listed["Aliases"] == listing("a.example.org")

    assert api(f"Delete{member}", Id=identifier, IfMatch=updated["ETag"]) == {}
    assert api.error(f"Get{member}", Id=identifier).code == f"NoSuch{member}"
    assert api.announced == 3
    rows = ControlLog(api.database).read_after(0).rows
    assert [(row.kind, row.scope) for row in rows] == [(RowKind.CONFIGURATION, identifier)] * 3


@both_kinds
def test_what_is_read_is_taken_again_as_it_is(api: Api, member: str) -> None:
    made = create(api, member)
    identifier = made[member]["Id"]
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    updated = api(
        f"Update{member}", Id=identifier, IfMatch=made["ETag"], **{f"{member}Config": config}
    )
    assert updated[member][f"{member}Config"] == config


@both_kinds
def test_a_caller_reference_is_used_once(api: Api, member: str) -> None:
    first = create(api, member)
    for comment in ("", "other"):
        again = {f"{member}Config": document(member, Comment=comment)}
        assert api.error(f"Create{member}", **again).code == f"{member}AlreadyExists"
    assert create(api, member, "two")[member]["Id"] != first[member]["Id"]


@both_kinds
@pytest.mark.parametrize("verb", ["Update", "Delete"])
def test_if_match_is_needed_and_held(api: Api, member: str, verb: str) -> None:
    made = create(api, member, Enabled=False)
    identifier = made[member]["Id"]
    said: dict[str, Any] = {"Id": identifier}
    if verb == "Update":
        said[f"{member}Config"] = document(member, Comment="new")
    assert api.error(f"{verb}{member}", **said).code == "InvalidIfMatchVersion"
    stale = api.error(f"{verb}{member}", IfMatch="E1STALE", **said)
    assert (stale.code, stale.status) == ("PreconditionFailed", 412)
    api(f"{verb}{member}", IfMatch=made["ETag"], **said)
    expected = "PreconditionFailed" if verb == "Update" else f"NoSuch{member}"
    assert api.error(f"{verb}{member}", IfMatch=made["ETag"], **said).code == expected


@both_kinds
def test_only_a_disabled_one_is_deleted(api: Api, member: str) -> None:
    made = create(api, member)
    refused = api.error(f"Delete{member}", Id=made[member]["Id"], IfMatch=made["ETag"])
    assert (refused.code, refused.status) == (f"{member}NotDisabled", 409)


@both_kinds
def test_a_caller_reference_stays(api: Api, member: str) -> None:
    made = create(api, member)
    said = {f"{member}Config": document(member, "another")}
    refused = api.error(f"Update{member}", Id=made[member]["Id"], IfMatch=made["ETag"], **said)
    assert refused.code == "IllegalUpdate"


@both_kinds
@pytest.mark.parametrize("operation", ["Get{}", "Get{}Config", "Update{}", "Delete{}"])
def test_what_is_not_there(api: Api, member: str, operation: str) -> None:
    said: dict[str, Any] = {"Id": "ENONE", "IfMatch": "E1"}
    if operation.startswith("Update"):
        said[f"{member}Config"] = document(member)
    refused = api.error(operation.format(member), **said)
    assert (refused.code, refused.status) == (f"NoSuch{member}", 404)


@both_kinds
def test_an_alias_belongs_to_one(api: Api, member: str) -> None:
    made = create(api, member, Aliases=listing("a.example.org"))
    other = create(api, member, "two")
    declared = "www.example.com" if member == "Distribution" else "stream.example.com"
    for alias in ("A.example.org", declared, made[member]["DomainName"]):
        said = {f"{member}Config": document(member, "three", Aliases=listing(alias))}
        refused = api.error(f"Create{member}", **said)
        assert (refused.code, refused.status) == ("CNAMEAlreadyExists", 409)
        said = {f"{member}Config": document(member, "two", Aliases=listing(alias))}
        refused = api.error(
            f"Update{member}", Id=other[member]["Id"], IfMatch=other["ETag"], **said
        )
        assert refused.code == "CNAMEAlreadyExists"
    kept = {f"{member}Config": document(member, Aliases=listing("a.example.org"), Comment="x")}
    api(f"Update{member}", Id=made[member]["Id"], IfMatch=made["ETag"], **kept)


@both_kinds
def test_two_updates_at_once_and_one_is_refused(api: Api, member: str, tmp_path: Path) -> None:
    made = create(api, member)
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def update(comment: str) -> None:
        database = ControlDatabase(tmp_path)  # as another process has it
        handlers = api_handlers(database, lambda: api.from_file, lambda: None)
        said = {
            "Id": made[member]["Id"],
            "IfMatch": made["ETag"],
            f"{member}Config": document(member, Comment=comment),
        }
        barrier.wait(30)
        try:
            handlers[f"Update{member}"](Call(f"Update{member}", said, "AKIAEDGE", NOW_S))
            outcomes.append("done")
        except ApiError as exc:
            outcomes.append(exc.code)
        database.close()

    threads = [threading.Thread(target=update, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["PreconditionFailed", "done"]


# --- what is declared ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "identifier", "host"),
    [
        ("Distribution", "EWEB", "www.example.com"),
        ("StreamingDistribution", "ESTREAM", "stream.example.com"),
    ],
)
def test_a_declared_distribution_is_shown_and_kept(
    api: Api, member: str, identifier: str, host: str
) -> None:
    shown = api(f"Get{member}", Id=identifier)
    assert shown[member]["DomainName"] == host
    assert shown[member]["Status"] == "Deployed"
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    assert identifier in [one["Id"] for one in api(f"List{member}s")[f"{member}List"]["Items"]]
    for verb, said in (("Update", {f"{member}Config": config}), ("Delete", {})):
        refused = api.error(f"{verb}{member}", Id=identifier, IfMatch=shown["ETag"], **said)
        assert (refused.code, refused.status) == ("AccessDenied", 403)
        assert "config.toml declares" in refused.message


def test_a_declared_document_makes_another_distribution_that_means_the_same(api: Api) -> None:
    config = api("GetDistributionConfig", Id="EWEB")["DistributionConfig"]
    assert "wJalrXUtnFEMI" not in str(config)
    copy = {**config, "CallerReference": "copy", "Aliases": listing("copy.example.org")}
    identifier = api("CreateDistribution", DistributionConfig=copy)["Distribution"]["Id"]
    from streamedge.api.to_config.translation import combine

    effective_config = combine(api.from_file, api.store.resources()).config
    declared, made = effective_config.distributions[0], effective_config.distributions[-1]
    assert made.id == identifier
    differing = {"id", "aliases", "behaviors", "methods"}
    for key in type(made).model_fields.keys() - differing:
        assert getattr(made, key) == getattr(declared, key), key
    for ours, theirs in zip(made.behaviors, declared.behaviors, strict=True):  # type: ignore[union-attr]
        rules = made.rules_for(ours), declared.rules_for(theirs)  # type: ignore[union-attr]
        assert rules[0] == rules[1]


def test_a_page_ends_with_the_marker_of_the_next(api: Api) -> None:
    for number in range(4):
        create(api, "Distribution", str(number))
    everything = [one["Id"] for one in api("ListDistributions")["DistributionList"]["Items"]]
    assert len(everything) == 5
    assert everything[0] == "EWEB"  # config.toml's first, then by age
    references = [api("GetDistribution", Id=one)["Distribution"] for one in everything[1:]]
    assert [one["DistributionConfig"]["CallerReference"] for one in references] == list("0123")
    seen: list[str] = []
    marker = ""
    for expected in (2, 2, 1):
        listed = api("ListDistributions", Marker=marker, MaxItems="2")["DistributionList"]
        assert (listed["Marker"], listed["MaxItems"]) == (marker, 2)
        assert listed["Quantity"] == expected == len(listed["Items"])
        seen += [one["Id"] for one in listed["Items"]]
        assert listed["IsTruncated"] is (len(seen) < 5)
        marker = listed.get("NextMarker", "")
    assert seen == everything
    assert marker == ""
    past = api("ListDistributions", Marker="Z")["DistributionList"]
    assert past["Quantity"] == 0
    assert "Items" not in past


@pytest.mark.parametrize("most", ["0", "-1", "x", "1e3", "٣", "9" * 20])
def test_max_items_is_a_number(api: Api, most: str) -> None:
    assert api.error("ListDistributions", MaxItems=most).code == "InvalidArgument"


# --- tags ---------------------------------------------------------------------------------


def tags(**values: str) -> dict[str, Any]:
    return {"Items": [{"Key": key, "Value": value} for key, value in values.items()]}


@both_kinds
def test_tags_come_and_go(api: Api, member: str) -> None:
    said = {f"{member}Config": document(member), "Tags": tags(team="media")}
    made = api(f"Create{member}WithTags", **{f"{member}ConfigWithTags": said})
    arn = made[member]["ARN"]
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(team="media")}
    assert api("TagResource", Resource=arn, Tags=tags(team="video", stage="live")) == {}
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(team="video", stage="live")}
    assert api("UntagResource", Resource=arn, TagKeys={"Items": ["team", "none"]}) == {}
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(stage="live")}
    assert api(f"Get{member}", Id=made[member]["Id"])["ETag"] == made["ETag"]


@pytest.mark.parametrize(
    "wrong",
    [
        tags(**{"": "x"}),
        tags(**{"aws:mine": "x"}),
        tags(**{"k" * 129: "x"}),
        tags(key="v" * 257),
        tags(key="<v>"),
        {"Items": [{"Key": "a"}, {"Key": "a"}]},
        tags(**{f"key{number}": "" for number in range(51)}),
    ],
)
def test_tags_have_rules(api: Api, wrong: dict[str, Any]) -> None:
    arn = create(api, "Distribution")["Distribution"]["ARN"]
    assert api.error("TagResource", Resource=arn, Tags=wrong).code == "InvalidTagging"


@pytest.mark.parametrize("operation", ["TagResource", "UntagResource", "ListTagsForResource"])
def test_tags_are_of_something(api: Api, operation: str) -> None:
    more: dict[str, Any] = {"Tags": tags(a="b")} if operation == "TagResource" else {}
    more |= {"TagKeys": {"Items": ["a"]}} if operation == "UntagResource" else {}
    prefix = "arn:aws:cloudfront::000000000000:"
    for arn, code in (
        (f"{prefix}distribution/ENONE", "NoSuchResource"),
        (f"{prefix}function/f", "NoSuchResource"),
        (f"{prefix}streaming-distribution/EWEB", "NoSuchResource"),
        ("arn:aws:s3:::bucket", "InvalidArgument"),
    ):
        assert api.error(operation, Resource=arn, **more).code == code
    if operation == "ListTagsForResource":
        assert api(operation, Resource=f"{prefix}distribution/EWEB") == {"Tags": {"Items": []}}
    else:
        refused = api.error(operation, Resource=f"{prefix}distribution/EWEB", **more)
        assert refused.code == "AccessDenied"


def test_a_list_goes_on_behind_a_distribution_that_is_gone(api: Api) -> None:
    made = []
    for number in range(4):
        api.now_s += 1
        made.append(create(api, "Distribution", str(number), Enabled=False))
    listed = api("ListDistributions", MaxItems="2")["DistributionList"]
    marker = listed["NextMarker"]
    assert marker == made[0]["Distribution"]["Id"]
    api("DeleteDistribution", Id=marker, IfMatch=made[0]["ETag"])
    rest = api("ListDistributions", Marker=marker)["DistributionList"]["Items"]
    assert [one["Id"] for one in rest] == [one["Distribution"]["Id"] for one in made[1:]]


def test_smooth_streaming_changes_nothing_and_is_kept(api: Api) -> None:
    made = api(
        "CreateDistribution",
        DistributionConfig=web(DefaultCacheBehavior=behavior(SmoothStreaming=True)),
    )
    config = made["Distribution"]["DistributionConfig"]
    assert config["DefaultCacheBehavior"]["SmoothStreaming"] is True


@pytest.mark.parametrize("protocols", [("SSLv3", "TLSv1"), ("TLSv1",), ("TLSv1", "TLSv1.1")])
def test_old_tls_is_taken_where_it_is_never_spoken(api: Api, protocols: tuple[str, ...]) -> None:
    def origins(policy: str) -> dict[str, Any]:
        custom = {"OriginProtocolPolicy": policy, "OriginSslProtocols": listing(*protocols)}
        return {
            "Origins": listing(server(custom=custom)),
            "DefaultCacheBehavior": behavior("server"),
        }

    refused = api.error("CreateDistribution", DistributionConfig=web(**origins("https-only")))
    assert refused.code == "InvalidProtocolSettings"
    made = api("CreateDistribution", DistributionConfig=web(**origins("http-only")))
    (origin,) = made["Distribution"]["DistributionConfig"]["Origins"]["Items"]
    assert origin["CustomOriginConfig"]["OriginSslProtocols"] == listing(*protocols)
