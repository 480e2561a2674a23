"""The operator's calls on invalidations: what they do, what they list, how they say no."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamedge.admin import invalidations as invalidations_admin
from streamedge.admin.invalidations import invalidation_routes
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.store import prepare_folder
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ITEMS_MAX, ControlLog
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.coordination.shared_state import WorkerStatus
from streamedge.coordination.wakeups import ChangeEvent, Wakeups
from streamedge.process.control import create_admin_app
from tests.support.asgi_call import call
from tests.support.shared_memory import make_shared


@dataclass(slots=True)
class Desk:
    """The admin address of an edge whose two workers are only in the worker status."""

    folder: Path
    log: ControlLog
    wakeups: Wakeups
    worker_status: WorkerStatus
    change_event: ChangeEvent

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer."""
        invalidation_feed = InvalidationFeed(
            self.folder, self.wakeups, self.worker_status, self.change_event
        )
        roots = {"EWEB": "index.html", "ESTREAM": ""}
        routes = invalidation_routes(self.log, invalidation_feed, self.change_event, lambda: roots)
        shared = make_shared(2, wakeups=self.wakeups, worker_status=self.worker_status)
        app = create_admin_app("fra-1", shared, None, routes)
        status, said = await call(app, method, target, body=body)
        return status, json.loads(said)

    async def invalidate(self, **wish: Any) -> tuple[int, dict[str, Any]]:
        return await self.ask("POST", "/invalidations", json.dumps(wish).encode())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    prepare_folder(tmp_path)
    database, wakeups, worker_status = ControlDatabase(tmp_path), Wakeups(2), WorkerStatus(2)
    yield Desk(tmp_path, ControlLog(database), wakeups, worker_status, ChangeEvent())
    database.close()
    wakeups.close()


async def test_a_row_is_appended_and_every_worker_told(desk: Desk) -> None:
    changes = ChangeCounter(desk.folder)
    before = changes.number
    status, said = await desk.invalidate(
        distribution="EWEB", items=["/a*", "/b?v=1"], tags=["News"], soft=True, revoke=True
    )
    assert status == 201
    (row,) = desk.log.read_after(0).rows
    assert row.scope == "EWEB"
    assert row.body == {"items": ["/a*", "/b?v=1", "#News"], "soft": True, "revoke": True}
    assert said == {
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


async def test_a_slash_alone_is_the_root_object_too(desk: Desk) -> None:
    _status, said = await desk.invalidate(distribution="EWEB", items=["/"])
    assert said["items"] == ["/", "/index.html"]
    _status, said = await desk.invalidate(distribution="ESTREAM", items=["/"])
    assert said["items"] == ["/"]


async def test_a_caller_reference_says_the_same_once(desk: Desk) -> None:
    wish = {"distribution": "EWEB", "items": ["/a"], "caller_reference": "r"}
    first = await desk.invalidate(**wish)
    assert await desk.invalidate(**wish) == first
    status, said = await desk.invalidate(**wish | {"items": ["/b"]})
    assert status == 409
    assert first[1]["id"] in said["error"]


async def test_they_are_listed_by_distribution_the_newest_first(desk: Desk) -> None:
    made = [(await desk.invalidate(distribution="EWEB", items=[f"/{n}"]))[1] for n in range(3)]
    await desk.invalidate(distribution="ESTREAM", items=["/*"])
    status, said = await desk.ask("GET", "/invalidations?distribution=EWEB")
    assert (status, said) == (200, {"invalidations": made[::-1]})


@pytest.mark.parametrize(
    ("wish", "status", "reason"),
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
async def test_what_will_not_do_is_refused_with_its_reason(
    desk: Desk, wish: dict[str, Any], status: int, reason: str
) -> None:
    said = await desk.invalidate(**wish)
    assert said[0] == status
    assert reason in said[1]["error"]
    assert desk.log.read_after(0).rows == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_object_is_refused(desk: Desk, body: bytes) -> None:
    status, said = await desk.ask("POST", "/invalidations", body)
    assert status == 400
    assert "JSON" in said["error"]


async def test_a_body_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidations_admin, "BODY_BYTES_MAX", 100)
    status, _said = await desk.ask("POST", "/invalidations", bytes(101))
    assert status == 413


async def test_an_unknown_distribution_has_no_list(desk: Desk) -> None:
    assert (await desk.ask("GET", "/invalidations?distribution=ENONE"))[0] == 404
    assert (await desk.ask("GET", "/invalidations"))[0] == 404


async def test_without_a_database_nothing_can_be_invalidated(desk: Desk) -> None:
    desk.log = ControlLog(ControlDatabase(desk.folder / "nowhere"))
    for status, said in (
        await desk.invalidate(distribution="EWEB", items=["/*"]),
        await desk.ask("GET", "/invalidations?distribution=EWEB"),
    ):
        assert status == 503
        assert "control database" in said["error"]


async def test_waiting_ends_when_all_workers_that_are_up_have_looked(desk: Desk) -> None:
    desk.worker_status.mark_up(1)

    def look() -> None:
        desk.worker_status.note_position(1, desk.log.position())
        desk.change_event.notify()

    desk.wakeups.subscribe(1, look)
    status, said = await desk.invalidate(distribution="EWEB", items=["/*"], wait=True)
    desk.wakeups.unsubscribe(1)
    assert (status, said["applied"]) == (201, True)


async def test_waiting_ends_when_a_worker_does_not_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations_admin, "APPLIED_TIMEOUT_S", 0.01)
    desk.worker_status.mark_up(0)
    status, said = await desk.invalidate(distribution="EWEB", items=["/*"], wait=True)
    assert (status, said["applied"]) == (201, False)
