"""The calls on invalidations at the admin address: effects, lists and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from annotated_types import Le

from streamedge.admin import invalidations as invalidations_admin
from streamedge.admin.app import create_admin_app
from streamedge.admin.invalidations import invalidation_routes
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.store import prepare_folder
from streamedge.cli.admin_client import WAIT_TIMEOUT_S, invalidation_summary
from streamedge.config.schema.fleet import FleetConfig
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ITEMS_MAX, ControlLog
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.coordination.shared_state import WorkerStatus
from streamedge.coordination.wakeups import ChangeEvent, Wakeups
from streamedge.shared_log.completion import LEASE_MARGIN_S, Completion, CompletionWatch
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.process.shared_memory import make_shared


@dataclass(slots=True)
class AdminAddress:
    """The admin address of an edge whose two workers exist only in the worker status."""

    folder: Path
    log: ControlLog
    wakeups: Wakeups
    worker_status: WorkerStatus
    change_event: ChangeEvent
    completion: CompletionWatch | None = None

    async def request(
        self, method: str, target: str, body: bytes = b""
    ) -> tuple[int, dict[str, Any]]:
        """The status and JSON of a response."""
        invalidation_feed = InvalidationFeed(
            self.folder, self.wakeups, self.worker_status, self.change_event
        )
        roots = {"EWEB": "index.html", "ESTREAM": ""}
        routes = invalidation_routes(
            self.log, invalidation_feed, self.change_event, lambda: roots, self.completion
        )
        shared = make_shared(2, wakeups=self.wakeups, worker_status=self.worker_status)
        app = create_admin_app("fra-1", shared, open_access(shared), None, routes)
        status, response = await call(app, method, target, body=body)
        return status, json.loads(response)

    async def invalidate(self, **members: Any) -> tuple[int, dict[str, Any]]:
        return await self.request("POST", "/invalidations", json.dumps(members).encode())


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[AdminAddress]:
    prepare_folder(tmp_path)
    database, wakeups, worker_status = ControlDatabase(tmp_path), Wakeups(2), WorkerStatus(2)
    yield AdminAddress(tmp_path, ControlLog(database), wakeups, worker_status, ChangeEvent())
    database.close()
    wakeups.close()


async def test_invalidation_appends_a_row_and_notifies_every_worker(admin: AdminAddress) -> None:
    changes = ChangeCounter(admin.folder)
    before = changes.number
    status, body = await admin.invalidate(
        distribution="EWEB", items=["/a*", "/b?v=1"], tags=["News"], soft=True, revoke=True
    )
    assert status == 201
    (row,) = admin.log.read_after(0).rows
    assert row.scope == "EWEB"
    assert row.body == {"items": ["/a*", "/b?v=1", "#News"], "soft": True, "revoke": True}
    assert body == {
        "id": row.id,
        "distribution": "EWEB",
        "epoch": 1,
        "created_s": row.created_s,
        "items": ["/a*", "/b?v=1", "#News"],
        "soft": True,
        "revoke": True,
        "caller_reference": None,
    }
    assert changes.number == before + 1


async def test_slash_includes_the_root_object(admin: AdminAddress) -> None:
    _status, body = await admin.invalidate(distribution="EWEB", items=["/"])
    assert body["items"] == ["/", "/index.html"]
    _status, body = await admin.invalidate(distribution="ESTREAM", items=["/"])
    assert body["items"] == ["/"]


async def test_repeated_caller_reference_returns_the_first_invalidation(
    admin: AdminAddress,
) -> None:
    members = {"distribution": "EWEB", "items": ["/a"], "caller_reference": "r"}
    first = await admin.invalidate(**members)
    assert await admin.invalidate(**members) == first
    status, body = await admin.invalidate(**members | {"items": ["/b"]})
    assert status == 409
    assert first[1]["id"] in body["error"]


async def test_list_has_invalidations_of_one_distribution_newest_first(admin: AdminAddress) -> None:
    invalidations = [
        (await admin.invalidate(distribution="EWEB", items=[f"/{n}"]))[1] for n in range(3)
    ]
    await admin.invalidate(distribution="ESTREAM", items=["/*"])
    status, body = await admin.request("GET", "/invalidations?distribution=EWEB")
    assert (status, body) == (200, {"invalidations": invalidations[::-1]})


@pytest.mark.parametrize(
    ("members", "status", "reason"),
    [
        ({"distribution": "ENONE", "items": ["/*"]}, 404, "ENONE"),
        ({"items": ["/*"]}, 404, "no distribution"),
        ({"distribution": "EWEB"}, 400, "neither items nor tags"),
        ({"distribution": "EWEB", "items": []}, 400, "neither items nor tags"),
        ({"distribution": "EWEB", "items": ["a"]}, 400, "begins with"),
        ({"distribution": "EWEB", "items": ["/fine", "/a%zz"]}, 400, "hexadecimal"),
        ({"distribution": "EWEB", "items": "/a"}, 400, "items is a list"),
        ({"distribution": "EWEB", "items": [1]}, 400, "items is a list"),
        ({"distribution": "EWEB", "items": ["/\ud800"]}, 400, "items is a list"),
        ({"distribution": "EWEB", "items": ["/a\0"]}, 400, "items is a list"),
        ({"distribution": "EWEB", "tags": ["a,b"]}, 400, "tag"),
        ({"distribution": "EWEB", "items": ["/a"] * (ITEMS_MAX + 1)}, 400, "more than 3000"),
        ({"distribution": "EWEB", "items": ["/a"], "soft": 1}, 400, "soft is true or false"),
        ({"distribution": "EWEB", "items": ["/a"], "revoke": "no"}, 400, "revoke is true"),
        ({"distribution": ["EWEB"], "items": ["/a"]}, 400, "distribution is a text"),
        ({"distribution": "EWEB", "items": ["/a"], "caller_reference": "r" * 1025}, 400, "longer"),
        ({"distribution": "EWEB", "paths": ["/a"]}, 400, "'paths' is not a member"),
    ],
)
async def test_invalid_request_is_refused_with_a_reason(
    admin: AdminAddress, members: dict[str, Any], status: int, reason: str
) -> None:
    response = await admin.invalidate(**members)
    assert response[0] == status
    assert reason in response[1]["error"]
    assert admin.log.read_after(0).rows == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
async def test_body_that_is_not_a_json_object_is_refused(admin: AdminAddress, body: bytes) -> None:
    status, response = await admin.request("POST", "/invalidations", body)
    assert status == 400
    assert "JSON" in response["error"]


async def test_body_over_the_limit_is_refused(
    admin: AdminAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations_admin, "BODY_BYTES_MAX", 100)
    status, _response = await admin.request("POST", "/invalidations", bytes(101))
    assert status == 413


async def test_list_of_unknown_distribution_is_404(admin: AdminAddress) -> None:
    assert (await admin.request("GET", "/invalidations?distribution=ENONE"))[0] == 404
    assert (await admin.request("GET", "/invalidations"))[0] == 404


async def test_missing_database_is_503(admin: AdminAddress) -> None:
    admin.log = ControlLog(ControlDatabase(admin.folder / "nowhere"))
    for status, body in (
        await admin.invalidate(distribution="EWEB", items=["/*"]),
        await admin.request("GET", "/invalidations?distribution=EWEB"),
    ):
        assert status == 503
        assert "control database" in body["error"]


async def test_wait_ends_when_all_running_workers_have_applied_it(admin: AdminAddress) -> None:
    admin.worker_status.mark_up(1)

    def apply() -> None:
        admin.worker_status.note_position(1, admin.log.position())
        admin.change_event.notify()

    admin.wakeups.subscribe(1, apply)
    status, body = await admin.invalidate(distribution="EWEB", items=["/*"], wait=True)
    admin.wakeups.unsubscribe(1)
    assert (status, body["applied"]) == (201, True)


async def test_wait_ends_at_the_timeout(
    admin: AdminAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations_admin, "APPLIED_TIMEOUT_S", 0.01)
    admin.worker_status.mark_up(0)
    status, body = await admin.invalidate(distribution="EWEB", items=["/*"], wait=True)
    assert (status, body["applied"]) == (201, False)


class LateFleet:
    """A fleet with a lease of a minute, in which one edge has not applied an invalidation."""

    def __init__(self) -> None:
        self.presence = SimpleNamespace(
            lease_s=60.0,
            position=1,
            edges_with=lambda _position: {"fra-1"},
            wait_completed=self.wait_completed,
            missing=lambda position: [f"ams-1 lacks {position}"],
        )
        self.service = SimpleNamespace(
            position=7,
            replica=SimpleNamespace(place_of_row=lambda _epoch: SimpleNamespace(position=7)),
        )
        self.waited_s = 0.0

    async def wait_completed(
        self, _position: int, timeout_s: float, _observe: Callable[[], None]
    ) -> bool:
        self.waited_s = timeout_s
        return False


async def test_call_waits_for_a_fleet_until_its_lease_is_over_and_says_what_is_missing(
    admin: AdminAddress,
) -> None:
    fleet = LateFleet()
    completions: list[Completion] = []
    admin.completion = CompletionWatch(
        cast("Any", fleet.service),
        cast("Any", fleet.presence),
        completions.append,
        clock=lambda: 0.0,
    )
    _status, body = await admin.invalidate(distribution="EWEB", items=["/a"], wait=True)
    assert fleet.waited_s == 60.0 + LEASE_MARGIN_S
    assert body["applied"] is False
    assert body["edges"] == {"fra-1": 0}
    assert body["missing"] == ["ams-1 lacks 7"]
    summary = invalidation_summary(body)
    assert summary.splitlines()[1:] == ["  fra-1: 0 ms", "  ams-1 lacks 7"]
    assert completions[0].missing == ("ams-1 lacks 7",)


def test_command_waits_longer_than_the_longest_lease() -> None:
    longest: Any = next(
        one.le for one in FleetConfig.model_fields["lease"].metadata if isinstance(one, Le)
    )
    assert longest + LEASE_MARGIN_S < WAIT_TIMEOUT_S
