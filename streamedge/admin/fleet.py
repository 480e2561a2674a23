"""The fleet on the admin address.

    GET    /fleet                  this edge, and all edges as it sees them
    POST   /fleet/NAME/drain       viewers are sent elsewhere; NAME finishes what it serves
    POST   /fleet/NAME/undrain     ends that
    DELETE /fleet/NAME             an edge that has stopped leaves the fleet
    GET    /fleet/owner?url=URL    which edges of the tier own the object's parts
    GET    /fleet/zone             what streamedge fleet zone needs: aliases, members, port
    GET    /fleet/check            problems of the engine, the members and the certificates

In a fleet of one all of them are 409.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.errors import StreamEdgeError
from streamedge.fleet.attendance import GONE_STATE, UNKNOWN_STATE
from streamedge.fleet.members import Member, Presence, Role
from streamedge.fleet.position import format_position, line_of, sequence_of
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import EngineError

if TYPE_CHECKING:
    from streamedge.shared_log.presence import PresenceReporter
    from streamedge.shared_log.service import FleetService

PUBLISHED_TIMEOUT_S = 5.0
APPLIED_TIMEOUT_S = 2.0
ALONE = "this edge is alone: fleet.engine is not set"


HELD = (
    "{name} holds queued writes of {count} objects, which no other edge has: start it until it has"
    " sent them (its streamedge writes shows none), or remove it with --force and lose them"
)


class OwnerError(StreamEdgeError):
    """Why no edge owns the object of a URL."""


class FleetControl(Protocol):
    """What the routes use of the edge's part in its fleet."""

    service: FleetService
    presence: PresenceReporter

    def owners(self, url: str, members: Mapping[str, Member]) -> dict[str, Any]:
        """Who owns the object of a URL. Blocks; raises OwnerError."""
        ...

    def zone_parts(self) -> dict[str, Any]:
        """What the DNS zone is made of: aliases, members, and the port of the traffic check."""
        ...

    def problems(self) -> list[str]:
        """Problems of this edge's config and files, as sentences. Blocks."""
        ...


def lag_entries(position: int, head: int) -> int | None:
    """How many entries a position is behind the newest one; None across a history that was lost."""
    if line_of(position) != line_of(head):
        return None
    return max(0, sequence_of(head) - sequence_of(position))


def fleet_routes(fleet: FleetControl | None, engine_place: str) -> list[Route]:
    """The routes; ``fleet`` is None in a fleet of one. ``engine_place``: without its password."""

    def present() -> FleetControl:
        if fleet is None:
            raise HTTPException(409, ALONE)
        return fleet

    async def show(_request: Request) -> Response:
        return JSONResponse(fleet_document(present(), engine_place))

    async def drain(request: Request) -> Response:
        return await change(request, Role.DRAINING)

    async def undrain(request: Request) -> Response:
        return await change(request, Role.SERVING)

    async def remove(request: Request) -> Response:
        return await change(request, Role.REMOVED)

    async def change(request: Request, role: Role) -> Response:
        here = present()
        name = request.path_params["name"]
        member = here.service.view.members.get(name)
        if member is None or member.role is Role.REMOVED:
            names = ", ".join(_members(here)) or "none"
            raise HTTPException(404, f"no edge has the name {name!a}; known: {names}")
        presence = here.presence.attendance.presences.get(name)
        if role is Role.REMOVED and presence is not None:
            raise HTTPException(
                409, f"{name} is {presence.state.value}: drain it and stop it, then remove it"
            )
        held = (await asyncio.to_thread(here.service.replica.held_writes)).get(name, 0)
        if role is Role.REMOVED and held and request.query_params.get("force") != "1":
            raise HTTPException(409, HELD.format(name=name, count=held))
        position = None
        if member.role is not role:
            entry_id = await here.service.publish_member(replace(member, role=role))
            position = await here.service.wait_published(entry_id, PUBLISHED_TIMEOUT_S)
            if position is None:
                reason = "the engine does not answer; the change is sent when it does"
                raise HTTPException(503, reason)
            await here.presence.wait_completed(position, APPLIED_TIMEOUT_S)
        return JSONResponse(
            {
                "name": name,
                "role": role.value,
                "changed": position is not None,
                "held_writes": held,
            }
        )

    async def owner(request: Request) -> Response:
        here = present()
        url = request.query_params.get("url", "")
        try:
            document = await asyncio.to_thread(here.owners, url, _members(here))
        except OwnerError as exc:
            raise HTTPException(404, str(exc)) from exc
        return JSONResponse(document)

    async def zone(_request: Request) -> Response:
        return JSONResponse(present().zone_parts())

    async def check(_request: Request) -> Response:
        return JSONResponse({"problems": await find_problems(present())})

    return [
        Route("/fleet", show),
        Route("/fleet/owner", owner),
        Route("/fleet/zone", zone),
        Route("/fleet/check", check),
        Route("/fleet/{name}/drain", drain, methods=["POST"]),
        Route("/fleet/{name}/undrain", undrain, methods=["POST"]),
        Route("/fleet/{name}", remove, methods=["DELETE"]),
    ]


def fleet_document(fleet: FleetControl, engine_place: str) -> dict[str, Any]:
    """What ``GET /fleet`` answers."""
    service, presence = fleet.service, fleet.presence
    head = presence.head
    return {
        "edge": service.member.name,
        "state": presence.state.value,
        "hears_fleet": presence.hears_fleet,
        "engine": engine_place,
        "engine_up": service.is_engine_up and presence.hears_engine,
        "engine_problem": presence.fault or None,
        "position": format_position(presence.position),
        "head": format_position(head),
        "lag": lag_entries(presence.position, head),
        "unpublished": service.view.unpublished,
        "edges": [
            _edge(member, presence, head)
            for member in sorted(_members(fleet).values(), key=lambda member: member.name)
        ],
    }


def _edge(member: Member, reporter: PresenceReporter, head: int) -> dict[str, Any]:
    presence = reporter.attendance.presences.get(member.name)
    state = GONE_STATE if presence is None else presence.state.value
    if not reporter.knows_others:
        presence = None
        state = reporter.state.value if member.name == reporter.name else UNKNOWN_STATE
    return {
        "name": member.name,
        "state": state,
        "role": member.role.value,
        "location": member.location,
        "addresses": list(member.addresses),
        "peer_address": member.peer_address or None,
        "weight": member.weight,
        "position": None if presence is None else format_position(presence.position),
        "lag": None if presence is None else lag_entries(presence.position, head),
        "load": None if presence is None else presence.load,
    }


def _members(fleet: FleetControl) -> dict[str, Member]:
    """The members that were not removed."""
    members = fleet.service.view.members
    return {name: member for name, member in members.items() if member.role is not Role.REMOVED}


def _presence_problems(name: str, presence: Presence | None) -> Iterator[str]:
    if presence is None:
        yield f"{name} does not report: start it, or remove it: streamedge fleet remove {name}"
    elif presence.state is EdgeState.LOST:
        yield f"{name} has lost the shared log: see its log for fleet_engine_down"


async def find_problems(fleet: FleetControl) -> list[str]:
    """What an operator should mend, as sentences that say how."""
    problems = []
    try:
        problems += await fleet.service.engine.problems()
    except EngineError as exc:
        problems.append(str(exc))
    reporter = fleet.presence
    if not reporter.knows_others:
        problems.append(
            f"{reporter.name} does not hear from the engine, so the state of the other edges is not"
            " known here: mend the engine, or the way to it, or run this on another edge"
        )
    for name, member in sorted(_members(fleet).items()):
        if reporter.knows_others:
            problems += _presence_problems(name, reporter.attendance.presences.get(name))
        if not member.addresses:
            problems.append(
                f"{name} has no addresses, so DNS cannot send viewers to it: set"
                " edge.addresses in its config"
            )
        if member.location is None:
            problems.append(
                f"{name} has no location, so no viewer counts as near to it: set"
                " edge.location in its config"
            )
    problems += await asyncio.to_thread(fleet.problems)
    return problems
