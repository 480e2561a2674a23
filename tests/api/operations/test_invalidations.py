"""Invalidations through the API: what is appended, found again and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamedge.control.log import ITEMS_MAX, ControlLog, RowKind
from tests.support.cloudfront_api import FILE_CONFIG, Api, listing


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def batch(*items: str, reference: str = "one") -> dict[str, Any]:
    return {"Paths": listing(*items), "CallerReference": reference}


def create(api: Api, *items: str, reference: str = "one", scope: str = "EWEB") -> dict[str, Any]:
    said = batch(*items, reference=reference)
    return api("CreateInvalidation", DistributionId=scope, InvalidationBatch=said)


@pytest.mark.parametrize("scope", ["EWEB", "ESTREAM"])
def test_it_is_in_force_when_the_call_returns(api: Api, scope: str) -> None:
    items = ("/films/*", "/a*b", "/page?x=1", "#news")
    made = create(api, *items, scope=scope)
    shown = made["Invalidation"]
    assert shown["Status"] == "Completed"
    assert shown["InvalidationBatch"] == batch(*items)
    place = f"/2020-05-31/distribution/{scope}/invalidation/{shown['Id']}"
    assert made["Location"] == place
    assert api.announced == 1
    (row,) = ControlLog(api.database).read_after(0).rows
    assert (row.kind, row.scope) == (RowKind.INVALIDATION, scope)
    assert row.invalidation.items == items
    assert not row.invalidation.soft
    got = api("GetInvalidation", DistributionId=scope, Id=shown["Id"])
    assert got == {"Invalidation": shown}


def test_the_root_means_its_object_too(tmp_path: Path) -> None:
    root = {"id": "EROOT", "type": "web", "origin": "site", "default_root_object": "index.html"}
    distributions = [{**root, "aliases": ["root.example.com"]}, *FILE_CONFIG["distributions"]]
    api = Api(tmp_path, {**FILE_CONFIG, "distributions": distributions})
    made = create(api, "/", scope="EROOT")
    assert made["Invalidation"]["InvalidationBatch"] == batch("/", "/index.html")
    assert create(api, "/", scope="EROOT") == made
    rootless = create(api, "/", scope="EWEB")
    assert rootless["Invalidation"]["InvalidationBatch"] == batch("/")


def test_the_same_call_twice_makes_one(api: Api) -> None:
    first, second = create(api, "/a"), create(api, "/a")
    assert second["Invalidation"]["Id"] == first["Invalidation"]["Id"]
    said = {"DistributionId": "EWEB", "InvalidationBatch": batch("/b")}
    assert api.error("CreateInvalidation", **said).code == "InvalidationBatchAlreadyExists"
    other = create(api, "/b", scope="ESTREAM")
    assert other["Invalidation"]["Id"] != first["Invalidation"]["Id"]


@pytest.mark.parametrize(
    ("said", "code"),
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
def test_a_batch_that_will_not_do(api: Api, said: dict[str, Any], code: str) -> None:
    refused = api.error("CreateInvalidation", DistributionId="EWEB", InvalidationBatch=said)
    assert refused.code == code
    assert ControlLog(api.database).read_after(0).rows == []


def test_what_is_not_there(api: Api) -> None:
    identifier = create(api, "/a")["Invalidation"]["Id"]
    said = {"DistributionId": "ENONE", "InvalidationBatch": batch("/a")}
    assert api.error("CreateInvalidation", **said).code == "NoSuchDistribution"
    assert api.error("ListInvalidations", DistributionId="ENONE").code == "NoSuchDistribution"
    for scope, one, code in (
        ("ENONE", identifier, "NoSuchDistribution"),
        ("EWEB", "INONE", "NoSuchInvalidation"),
        ("ESTREAM", identifier, "NoSuchInvalidation"),
    ):
        assert api.error("GetInvalidation", DistributionId=scope, Id=one).code == code


def test_the_newest_are_listed_first_page_by_page(api: Api) -> None:
    made = [create(api, "/a", reference=str(number))["Invalidation"]["Id"] for number in range(5)]
    create(api, "/a", scope="ESTREAM")
    seen: list[str] = []
    marker: str | None = ""
    for count in (2, 2, 1):
        said = {"DistributionId": "EWEB", "MaxItems": "2", "Marker": marker}
        listed = api("ListInvalidations", **said)["InvalidationList"]
        assert listed["Quantity"] == count
        seen += [item["Id"] for item in listed["Items"]]
        assert listed["IsTruncated"] is (len(seen) < 5)
        marker = listed.get("NextMarker")
    assert seen == made[::-1]
    assert marker is None
    refused = api.error("ListInvalidations", DistributionId="EWEB", Marker="INONE")
    assert refused.code == "InvalidArgument"
