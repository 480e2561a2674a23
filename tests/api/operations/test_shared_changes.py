"""Operations of the API in a fleet: another edge's change comes first, or no order can be had."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamedge.api.errors import ApiError
from streamedge.api.operations.handlers import ATTEMPTS_MAX, api_handlers
from streamedge.api.protocol.service import Call
from streamedge.control.resources import (
    ConflictError,
    Kind,
    Resource,
    ResourceStore,
    UnavailableError,
)
from tests.support.api.cloudfront_api import NOW_S, Api

CONFIG = {"CallerReference": "one", "Comment": ""}


class Order:
    """Orders changes as a script says: what happens before each of them."""

    def __init__(self, store: ResourceStore) -> None:
        self.store = store
        self.before: list[Callable[[], None]] = []
        self.appended = 0

    def expected_position(self, connection: sqlite3.Connection) -> int:
        return 7

    def append(
        self,
        changes: Mapping[tuple[Kind, str], tuple[Resource | None, Resource | None]],
        expected: int,
    ) -> None:
        assert expected == 7
        if self.before:
            self.before.pop(0)()
        self.appended += 1
        with self.store.change() as transaction:
            for _before, after in changes.values():
                if after is not None:
                    transaction.put(after)


def conflict() -> None:
    raise ConflictError("another edge")


def unavailable() -> None:
    raise UnavailableError("the engine does not answer: nothing was changed")


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


@pytest.fixture
def order(api: Api) -> Order:
    """Makes the operations of ``api`` those of an edge in a fleet."""
    order = Order(api.store)
    api.handlers = api_handlers(api.database, lambda: api.from_file, lambda: None, order, "one")
    return order


def create(api: Api) -> str:
    call = Call(
        "CreateCloudFrontOriginAccessIdentity",
        {"CloudFrontOriginAccessIdentityConfig": CONFIG},
        "AKIAEDGE",
        NOW_S,
    )
    output = api.handlers["CreateCloudFrontOriginAccessIdentity"](call)
    return str(output["ETag"])


def test_operation_is_run_again_after_another_edges_change(api: Api, order: Order) -> None:
    order.before = [conflict] * (ATTEMPTS_MAX - 1)
    etag = create(api)
    assert (order.appended, [one.etag for one in api.store.resources()]) == (1, [etag])


def test_operation_sees_the_change_that_came_first(api: Api, order: Order) -> None:
    def create_elsewhere() -> None:
        order.before = []
        api.handlers["CreateCloudFrontOriginAccessIdentity"](
            Call(
                "CreateCloudFrontOriginAccessIdentity",
                {"CloudFrontOriginAccessIdentityConfig": {**CONFIG, "Comment": "elsewhere"}},
                "AKIAEDGE",
                NOW_S,
            )
        )
        conflict()

    order.before = [create_elsewhere]
    with pytest.raises(ApiError) as caught:
        create(api)
    assert caught.value.code == "CloudFrontOriginAccessIdentityAlreadyExists"
    assert len(api.store.resources()) == 1


@pytest.mark.parametrize("failure", [conflict, unavailable])
def test_operation_without_an_order_is_503_and_changes_nothing(
    api: Api, order: Order, failure: Callable[[], None]
) -> None:
    order.before = [failure] * ATTEMPTS_MAX
    with pytest.raises(ApiError, match="nothing was changed") as caught:
        create(api)
    assert (caught.value.code, caught.value.status) == ("ServiceUnavailable", 503)
    assert api.store.resources() == ()
