"""Operations on distributions of both kinds: effects and errors."""

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
from tests.support.api.cloudfront_api import (
    NOW_S,
    Api,
    behavior,
    listing,
    server,
    streaming,
    web,
)
from tests.support.patience import PATIENCE_S

MEMBERS = ("Distribution", "StreamingDistribution")
both_kinds = pytest.mark.parametrize("member", MEMBERS)


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def document(member: str, reference: str = "one", **more: Any) -> dict[str, Any]:
    make = web if member == "Distribution" else streaming
    return make(reference, **more)


def create(api: Api, member: str, reference: str = "one", **more: Any) -> dict[str, Any]:
    members = {f"{member}Config": document(member, reference, **more)}
    return api(f"Create{member}", **members)


# --- create to delete ---------------------------------------------------------------------


@both_kinds
def test_distribution_is_created_read_updated_listed_and_deleted(api: Api, member: str) -> None:
    created = create(api, member, Comment="first", Aliases=listing("a.example.org"))
    distribution = created[member]
    identifier, etag = distribution["Id"], created["ETag"]
    path = "distribution" if member == "Distribution" else "streaming-distribution"
    assert created["Location"] == f"/2020-05-31/{path}/{identifier}"
    assert distribution["Status"] == "Deployed"
    assert distribution["LastModifiedTime"].timestamp() == NOW_S
    assert distribution["DomainName"] == f"{identifier.lower()}.fra-1.streamedge"
    assert distribution["ARN"] == f"arn:aws:cloudfront::000000000000:{path}/{identifier}"
    assert len(identifier) == 14
    assert identifier.isalnum()
    assert identifier.isupper()
    assert api(f"Get{member}", Id=identifier) == {member: distribution, "ETag": etag}

    read_back = api(f"Get{member}Config", Id=identifier)
    assert read_back == {f"{member}Config": distribution[f"{member}Config"], "ETag": etag}
    changed = {**read_back[f"{member}Config"], "Comment": "second", "Enabled": False}
    api.now_s += 60
    updated = api(f"Update{member}", Id=identifier, IfMatch=etag, **{f"{member}Config": changed})
    assert updated["ETag"] != etag
    assert updated[member][f"{member}Config"] == changed
    assert updated[member]["LastModifiedTime"].timestamp() == NOW_S + 60

    (entry,) = (
        one for one in api(f"List{member}s")[f"{member}List"]["Items"] if one["Id"] == identifier
    )
    assert entry["Comment"] == "second"
    assert entry["Enabled"] is False
    assert entry["Aliases"] == listing("a.example.org")

    assert api(f"Delete{member}", Id=identifier, IfMatch=updated["ETag"]) == {}
    assert api.error(f"Get{member}", Id=identifier).code == f"NoSuch{member}"
    assert api.announced == 3
    rows = ControlLog(api.database).read_after(0).rows
    assert [(row.kind, row.scope) for row in rows] == [(RowKind.CONFIGURATION, identifier)] * 3


@both_kinds
def test_document_from_get_is_accepted_by_update_unchanged(api: Api, member: str) -> None:
    created = create(api, member)
    identifier = created[member]["Id"]
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    updated = api(
        f"Update{member}", Id=identifier, IfMatch=created["ETag"], **{f"{member}Config": config}
    )
    assert updated[member][f"{member}Config"] == config


@both_kinds
def test_caller_reference_is_unique(api: Api, member: str) -> None:
    first = create(api, member)
    for comment in ("", "other"):
        again = {f"{member}Config": document(member, Comment=comment)}
        assert api.error(f"Create{member}", **again).code == f"{member}AlreadyExists"
    assert create(api, member, "two")[member]["Id"] != first[member]["Id"]


@both_kinds
@pytest.mark.parametrize("verb", ["Update", "Delete"])
def test_if_match_is_required_and_checked(api: Api, member: str, verb: str) -> None:
    created = create(api, member, Enabled=False)
    identifier = created[member]["Id"]
    members: dict[str, Any] = {"Id": identifier}
    if verb == "Update":
        members[f"{member}Config"] = document(member, Comment="new")
    assert api.error(f"{verb}{member}", **members).code == "InvalidIfMatchVersion"
    stale_error = api.error(f"{verb}{member}", IfMatch="E1STALE", **members)
    assert (stale_error.code, stale_error.status) == ("PreconditionFailed", 412)
    api(f"{verb}{member}", IfMatch=created["ETag"], **members)
    expected = "PreconditionFailed" if verb == "Update" else f"NoSuch{member}"
    assert api.error(f"{verb}{member}", IfMatch=created["ETag"], **members).code == expected


@both_kinds
def test_enabled_distribution_is_not_deleted(api: Api, member: str) -> None:
    created = create(api, member)
    error = api.error(f"Delete{member}", Id=created[member]["Id"], IfMatch=created["ETag"])
    assert (error.code, error.status) == (f"{member}NotDisabled", 409)


@both_kinds
def test_caller_reference_cannot_change(api: Api, member: str) -> None:
    created = create(api, member)
    members = {f"{member}Config": document(member, "another")}
    error = api.error(
        f"Update{member}", Id=created[member]["Id"], IfMatch=created["ETag"], **members
    )
    assert error.code == "IllegalUpdate"


@both_kinds
@pytest.mark.parametrize("operation", ["Get{}", "Get{}Config", "Update{}", "Delete{}"])
def test_unknown_distribution_is_404(api: Api, member: str, operation: str) -> None:
    members: dict[str, Any] = {"Id": "ENONE", "IfMatch": "E1"}
    if operation.startswith("Update"):
        members[f"{member}Config"] = document(member)
    error = api.error(operation.format(member), **members)
    assert (error.code, error.status) == (f"NoSuch{member}", 404)


@both_kinds
def test_alias_belongs_to_one_distribution(api: Api, member: str) -> None:
    created = create(api, member, Aliases=listing("a.example.org"))
    other = create(api, member, "two")
    in_file = "www.example.com" if member == "Distribution" else "stream.example.com"
    for alias in ("A.example.org", in_file, created[member]["DomainName"]):
        members = {f"{member}Config": document(member, "three", Aliases=listing(alias))}
        error = api.error(f"Create{member}", **members)
        assert (error.code, error.status) == ("CNAMEAlreadyExists", 409)
        members = {f"{member}Config": document(member, "two", Aliases=listing(alias))}
        error = api.error(
            f"Update{member}", Id=other[member]["Id"], IfMatch=other["ETag"], **members
        )
        assert error.code == "CNAMEAlreadyExists"
    unchanged = {f"{member}Config": document(member, Aliases=listing("a.example.org"), Comment="x")}
    api(f"Update{member}", Id=created[member]["Id"], IfMatch=created["ETag"], **unchanged)


@both_kinds
def test_one_of_two_concurrent_updates_is_refused(api: Api, member: str, tmp_path: Path) -> None:
    created = create(api, member)
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def update(comment: str) -> None:
        database = ControlDatabase(tmp_path)  # like another process
        handlers = api_handlers(database, lambda: api.from_file, lambda: None)
        members = {
            "Id": created[member]["Id"],
            "IfMatch": created["ETag"],
            f"{member}Config": document(member, Comment=comment),
        }
        barrier.wait(PATIENCE_S)
        try:
            handlers[f"Update{member}"](Call(f"Update{member}", members, "AKIAEDGE", NOW_S))
            outcomes.append("done")
        except ApiError as exc:
            outcomes.append(exc.code)
        database.close()

    threads = [threading.Thread(target=update, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(outcomes) == ["PreconditionFailed", "done"]


# --- distributions of the config file -----------------------------------------------------


@pytest.mark.parametrize(
    ("member", "identifier", "host"),
    [
        ("Distribution", "EWEB", "www.example.com"),
        ("StreamingDistribution", "ESTREAM", "stream.example.com"),
    ],
)
def test_distribution_of_the_file_is_read_only(
    api: Api, member: str, identifier: str, host: str
) -> None:
    distribution = api(f"Get{member}", Id=identifier)
    assert distribution[member]["DomainName"] == host
    assert distribution[member]["Status"] == "Deployed"
    config = api(f"Get{member}Config", Id=identifier)[f"{member}Config"]
    assert identifier in [one["Id"] for one in api(f"List{member}s")[f"{member}List"]["Items"]]
    for verb, members in (("Update", {f"{member}Config": config}), ("Delete", {})):
        error = api.error(f"{verb}{member}", Id=identifier, IfMatch=distribution["ETag"], **members)
        assert (error.code, error.status) == ("AccessDenied", 403)
        assert "config.toml declares" in error.message


def test_copy_of_a_distribution_of_the_file_has_the_same_settings(api: Api) -> None:
    config = api("GetDistributionConfig", Id="EWEB")["DistributionConfig"]
    assert "wJalrXUtnFEMI" not in str(config)
    copy = {**config, "CallerReference": "copy", "Aliases": listing("copy.example.org")}
    identifier = api("CreateDistribution", DistributionConfig=copy)["Distribution"]["Id"]
    from streamedge.api.to_config.translation import combine

    effective_config = combine(api.from_file, api.store.resources()).config
    in_file, created = effective_config.distributions[0], effective_config.distributions[-1]
    assert created.id == identifier
    excluded = {"id", "aliases", "behaviors", "methods"}
    for key in type(created).model_fields.keys() - excluded:
        assert getattr(created, key) == getattr(in_file, key), key
    for created_behavior, file_behavior in zip(created.behaviors, in_file.behaviors, strict=True):  # type: ignore[union-attr]
        rules = created.rules_for(created_behavior), in_file.rules_for(file_behavior)  # type: ignore[union-attr]
        assert rules[0] == rules[1]


def test_pages_of_a_list_continue_at_the_marker(api: Api) -> None:
    for number in range(4):
        create(api, "Distribution", str(number))
    everything = [one["Id"] for one in api("ListDistributions")["DistributionList"]["Items"]]
    assert len(everything) == 5
    assert everything[0] == "EWEB"  # those of config.toml first, then by age
    references = [api("GetDistribution", Id=one)["Distribution"] for one in everything[1:]]
    assert [one["DistributionConfig"]["CallerReference"] for one in references] == list("0123")
    ids: list[str] = []
    marker = ""
    for expected in (2, 2, 1):
        listed = api("ListDistributions", Marker=marker, MaxItems="2")["DistributionList"]
        assert (listed["Marker"], listed["MaxItems"]) == (marker, 2)
        assert listed["Quantity"] == expected == len(listed["Items"])
        ids += [one["Id"] for one in listed["Items"]]
        assert listed["IsTruncated"] is (len(ids) < 5)
        marker = listed.get("NextMarker", "")
    assert ids == everything
    assert marker == ""
    past = api("ListDistributions", Marker="Z")["DistributionList"]
    assert past["Quantity"] == 0
    assert "Items" not in past


@pytest.mark.parametrize("max_items", ["0", "-1", "x", "1e3", "٣", "9" * 20])
def test_invalid_max_items_is_refused(api: Api, max_items: str) -> None:
    assert api.error("ListDistributions", MaxItems=max_items).code == "InvalidArgument"


# --- tags ---------------------------------------------------------------------------------


def tags(**values: str) -> dict[str, Any]:
    return {"Items": [{"Key": key, "Value": value} for key, value in values.items()]}


@both_kinds
def test_tags_are_added_listed_and_removed(api: Api, member: str) -> None:
    members = {f"{member}Config": document(member), "Tags": tags(team="media")}
    created = api(f"Create{member}WithTags", **{f"{member}ConfigWithTags": members})
    arn = created[member]["ARN"]
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(team="media")}
    assert api("TagResource", Resource=arn, Tags=tags(team="video", tier="live")) == {}
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(team="video", tier="live")}
    assert api("UntagResource", Resource=arn, TagKeys={"Items": ["team", "none"]}) == {}
    assert api("ListTagsForResource", Resource=arn) == {"Tags": tags(tier="live")}
    assert api(f"Get{member}", Id=created[member]["Id"])["ETag"] == created["ETag"]


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
def test_invalid_tags_are_refused(api: Api, wrong: dict[str, Any]) -> None:
    arn = create(api, "Distribution")["Distribution"]["ARN"]
    assert api.error("TagResource", Resource=arn, Tags=wrong).code == "InvalidTagging"


@pytest.mark.parametrize("operation", ["TagResource", "UntagResource", "ListTagsForResource"])
def test_tags_need_a_distribution_of_the_api(api: Api, operation: str) -> None:
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
        error = api.error(operation, Resource=f"{prefix}distribution/EWEB", **more)
        assert error.code == "AccessDenied"


def test_list_continues_after_a_deleted_marker(api: Api) -> None:
    created = []
    for number in range(4):
        api.now_s += 1
        created.append(create(api, "Distribution", str(number), Enabled=False))
    listed = api("ListDistributions", MaxItems="2")["DistributionList"]
    marker = listed["NextMarker"]
    assert marker == created[0]["Distribution"]["Id"]
    api("DeleteDistribution", Id=marker, IfMatch=created[0]["ETag"])
    rest = api("ListDistributions", Marker=marker)["DistributionList"]["Items"]
    assert [one["Id"] for one in rest] == [one["Distribution"]["Id"] for one in created[1:]]


def test_smooth_streaming_is_stored_without_an_effect(api: Api) -> None:
    created = api(
        "CreateDistribution",
        DistributionConfig=web(DefaultCacheBehavior=behavior(SmoothStreaming=True)),
    )
    config = created["Distribution"]["DistributionConfig"]
    assert config["DefaultCacheBehavior"]["SmoothStreaming"] is True


@pytest.mark.parametrize("protocols", [("SSLv3", "TLSv1"), ("TLSv1",), ("TLSv1", "TLSv1.1")])
def test_old_tls_is_accepted_for_http_only_origins(api: Api, protocols: tuple[str, ...]) -> None:
    def origins(policy: str) -> dict[str, Any]:
        custom = {"OriginProtocolPolicy": policy, "OriginSslProtocols": listing(*protocols)}
        return {
            "Origins": listing(server(custom=custom)),
            "DefaultCacheBehavior": behavior("server"),
        }

    error = api.error("CreateDistribution", DistributionConfig=web(**origins("https-only")))
    assert error.code == "InvalidProtocolSettings"
    created = api("CreateDistribution", DistributionConfig=web(**origins("http-only")))
    (origin,) = created["Distribution"]["DistributionConfig"]["Origins"]["Items"]
    assert origin["CustomOriginConfig"]["OriginSslProtocols"] == listing(*protocols)
