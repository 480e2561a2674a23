"""Operations on invalidations: rows in the control log, lists and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.control.log import ITEMS_MAX, ControlLog, RowKind
from tests.support.api.cloudfront_api import FILE_CONFIG, Api, listing


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def batch(*items: str, reference: str = "one") -> dict[str, Any]:
    return {"Paths": listing(*items), "CallerReference": reference}


def create(api: Api, *items: str, reference: str = "one", scope: str = "EWEB") -> dict[str, Any]:
    members = batch(*items, reference=reference)
    return api("CreateInvalidation", DistributionId=scope, InvalidationBatch=members)


@pytest.mark.parametrize("scope", ["EWEB", "ESTREAM"])
def test_invalidation_has_taken_effect_when_the_call_returns(api: Api, scope: str) -> None:
    items = ("/films/*", "/a*b", "/page?x=1", "#news")
    created = create(api, *items, scope=scope)
    invalidation = created["Invalidation"]
    assert invalidation["Status"] == "Completed"
    assert invalidation["InvalidationBatch"] == batch(*items)
    location = f"/2020-05-31/distribution/{scope}/invalidation/{invalidation['Id']}"
    assert created["Location"] == location
    assert api.announced == 1
    (row,) = ControlLog(api.database).read_after(0).rows
    assert (row.kind, row.scope) == (RowKind.INVALIDATION, scope)
    assert row.invalidation.items == items
    assert not row.invalidation.soft
    read_back = api("GetInvalidation", DistributionId=scope, Id=invalidation["Id"])
    assert read_back == {"Invalidation": invalidation}


def test_slash_includes_the_default_root_object(tmp_path: Path) -> None:
    root = {"id": "EROOT", "type": "web", "origin": "site", "default_root_object": "index.html"}
    distributions = [{**root, "aliases": ["root.example.com"]}, *FILE_CONFIG["distributions"]]
    api = Api(tmp_path, {**FILE_CONFIG, "distributions": distributions})
    created = create(api, "/", scope="EROOT")
    assert created["Invalidation"]["InvalidationBatch"] == batch("/", "/index.html")
    assert create(api, "/", scope="EROOT") == created
    rootless = create(api, "/", scope="EWEB")
    assert rootless["Invalidation"]["InvalidationBatch"] == batch("/")


def test_repeated_creation_returns_the_same_invalidation(api: Api) -> None:
    first, second = create(api, "/a"), create(api, "/a")
    assert second["Invalidation"]["Id"] == first["Invalidation"]["Id"]
    members = {"DistributionId": "EWEB", "InvalidationBatch": batch("/b")}
    assert api.error("CreateInvalidation", **members).code == "InvalidationBatchAlreadyExists"
    other = create(api, "/b", scope="ESTREAM")
    assert other["Invalidation"]["Id"] != first["Invalidation"]["Id"]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        (batch("a"), "InvalidArgument"),
        (batch(""), "InvalidArgument"),
        (batch("/a b"), "InvalidArgument"),
        (batch("/%zz"), "InvalidArgument"),
        (batch("#"), "InvalidArgument"),
        (batch("#a,b"), "InvalidArgument"),
        (batch(), "InvalidArgument"),
        (batch("/a", reference=""), "InvalidArgument"),
        (batch("/a", reference="x" * 1025), "InvalidArgument"),
        (
            {"Paths": {"Quantity": 2, "Items": ["/a"]}, "CallerReference": "1"},
            "InconsistentQuantities",
        ),
        (batch(*(f"/{number}" for number in range(ITEMS_MAX + 1))), "BatchTooLarge"),
    ],
)
def test_invalid_batch_is_refused(api: Api, members: dict[str, Any], code: str) -> None:
    error = api.error("CreateInvalidation", DistributionId="EWEB", InvalidationBatch=members)
    assert error.code == code
    assert ControlLog(api.database).read_after(0).rows == []


def test_unknown_distribution_or_invalidation_is_refused(api: Api) -> None:
    identifier = create(api, "/a")["Invalidation"]["Id"]
    members = {"DistributionId": "ENONE", "InvalidationBatch": batch("/a")}
    assert api.error("CreateInvalidation", **members).code == "NoSuchDistribution"
    assert api.error("ListInvalidations", DistributionId="ENONE").code == "NoSuchDistribution"
    for scope, one, code in (
        ("ENONE", identifier, "NoSuchDistribution"),
        ("EWEB", "INONE", "NoSuchInvalidation"),
        ("ESTREAM", identifier, "NoSuchInvalidation"),
    ):
        assert api.error("GetInvalidation", DistributionId=scope, Id=one).code == code


def test_list_has_pages_with_the_newest_first(api: Api) -> None:
    created = [
        create(api, "/a", reference=str(number))["Invalidation"]["Id"] for number in range(5)
    ]
    create(api, "/a", scope="ESTREAM")
    ids: list[str] = []
    marker: str | None = ""
    for count in (2, 2, 1):
        members = {"DistributionId": "EWEB", "MaxItems": "2", "Marker": marker}
        listed = api("ListInvalidations", **members)["InvalidationList"]
        assert listed["Quantity"] == count
        ids += [item["Id"] for item in listed["Items"]]
        assert listed["IsTruncated"] is (len(ids) < 5)
        marker = listed.get("NextMarker")
    assert ids == created[::-1]
    assert marker is None
    error = api.error("ListInvalidations", DistributionId="EWEB", Marker="INONE")
    assert error.code == "InvalidArgument"
