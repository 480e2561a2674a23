"""Create, Get, Update, Delete and List, common to all kinds of resources.

Covers ETags and If-Match, unique names, repeated creation, read-only resources, resources in use,
and pages of lists. A ``KindSpec`` has what differs between kinds: members, codes, ids, and how
documents are checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from streamedge.api.documents.documents import Document, invalid, normalize, required
from streamedge.api.documents.inventory import Inventory, references
from streamedge.api.errors import ApiError
from streamedge.api.protocol.service import VERSION, Call, Handler, Output
from streamedge.api.transactions import Resources, Transaction
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource

RESOURCES_MAX = 1000  # of one kind
PAGE_MAX = 1000
PAGE_STANDARD = 100
VERSION_PATH = f"/{VERSION}"
_ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # as they sort
_ID_CHARACTERS = 13
_TIME_CHARACTERS = 7  # of an id: the seconds since 1970, until the year 4453


def new_etag() -> str:
    """An ETag as CloudFront makes them, such as ``E2QWRUHAPOMQZL``."""
    return "E" + "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARACTERS))


def new_id(letter: str, now_s: float) -> str:
    """An id as CloudFront makes them, such as ``E2QWRUHAPOMQZL``; later ones sort behind it."""
    left, text = int(now_s), ""
    for _ in range(_TIME_CHARACTERS):
        left, digit = divmod(left, len(_ID_LETTERS))
        text = _ID_LETTERS[digit] + text
    chance = range(_ID_CHARACTERS - _TIME_CHARACTERS)
    return letter + text + "".join(secrets.choice(_ID_LETTERS) for _ in chance)


def new_uuid(now_s: float) -> str:
    """An id of a policy or key group: UUID version 7 (RFC 9562 §5.7); later ones sort behind it."""
    time_ms, chance = int(now_s * 1000) & (1 << 48) - 1, secrets.randbits(74)
    number = time_ms << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1
    return str(uuid.UUID(int=number))


def timestamp(time_s: float) -> datetime:
    """A time of a resource as documents have it."""
    return datetime.fromtimestamp(time_s, UTC)


def fixed_resource(kind: Kind, identifier: str, document: Document) -> Resource:
    """A resource that is not the registry's: its ETag follows from its document, it has no time."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    etag = "E" + base64.b32encode(digest).decode()[:_ID_CHARACTERS]
    return Resource(kind, identifier, etag, "", document, 0.0, 0.0)


def _nothing(_config: Config) -> Iterable[Resource]:
    return ()


def _any(_inventory: Inventory, _resource: Resource) -> None:
    return None


def _no_change(_old: Document, _new: Document) -> None:
    return None


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What is one kind's own.

    ``member`` is it in outputs, ``config_member`` its document in inputs; ``path`` is its place in
    a Location. ``name_of`` is what no other of the kind may have, beside its CallerReference;
    ``is_repeatable``: a creation that is repeated word for word finds what the first one made.
    ``complete`` fills in CloudFront's defaults, ``shown`` makes the output's member. ``declared``
    and ``managed`` are read-only ones. ``check`` raises ApiError for what may not be beside the
    rest, ``check_update`` for what may not become of a document. ``used_by`` names the kinds whose
    documents have its id, as ``reference_of`` writes it, at ``reference``.
    """

    kind: Kind
    member: str
    config_member: str
    path: str
    missing: str
    exists: str
    in_use: str
    too_many: str
    make_id: Callable[[float], str]
    name_of: Callable[[Document], str]
    complete: Callable[[Document], dict[str, Any]]
    shown: Callable[[Inventory, Resource], dict[str, Any]]
    is_repeatable: bool = False
    declared: Callable[[Config], Iterable[Resource]] = _nothing
    managed: tuple[Resource, ...] = ()
    check: Callable[[Inventory, Resource], None] = _any
    check_update: Callable[[Document, Document], None] = _no_change
    check_delete: Callable[[Document], None] = lambda _document: None
    used_by: tuple[Kind, ...] = ()
    reference: str = ""
    reference_of: Callable[[str], str] = str

    def all(self, inventory: Inventory) -> dict[str, Resource]:
        """All of the kind by id: declared ones, managed ones, then the made ones by their age.

        What is declared wins.
        """
        found = {resource.id: resource for resource in self.declared(inventory.from_file)}
        for resource in (*self.managed, *inventory.from_api[self.kind].values()):
            found.setdefault(resource.id, resource)
        return found

    def find(self, inventory: Inventory, identifier: str) -> Resource:
        """The one of this id. Raises ApiError."""
        found = self.all(inventory).get(identifier)
        if found is None:
            raise ApiError(self.missing, f"there is no {self.kind.value} with the id {identifier}")
        return found

    def is_managed(self, resource: Resource) -> bool:
        return any(managed.id == resource.id for managed in self.managed)


class ResourceCalls:
    """The calls on one kind."""

    def __init__(self, family: KindSpec, holdings: Resources) -> None:
        self.family = family
        self._holdings = holdings

    def handlers(self) -> dict[str, Handler]:
        """By the names of CloudFront's operations."""
        member = self.family.member
        return {
            f"Create{member}": lambda call: self.create(call, {}),
            f"Get{member}": self._get,
            f"Get{member}Config": self._get_config,
            f"Update{member}": self._update,
            f"Delete{member}": self._delete,
        }

    def create(
        self, call: Call, tags: Mapping[str, str], document: Document | None = None
    ) -> Output:
        """Makes one of ``document``, or of the call's own."""
        family = self.family
        if document is None:
            document = required(call.input, family.config_member)
        document = family.complete(normalize(document))
        name = family.name_of(document)
        with self._holdings.change() as transaction:
            known = family.all(transaction.before)
            for other in known.values():
                if _is_taken_by(family, other, document, name):
                    if family.is_repeatable and other.document == document:
                        return self._created(transaction.before, other)
                    text = f"{other.id} has this name or CallerReference already: {name}"
                    raise ApiError(family.exists, text)
            if len(transaction.before.from_api[family.kind]) >= RESOURCES_MAX:
                raise ApiError(family.too_many, f"there are {RESOURCES_MAX} of them already")
            now_s = call.now_s
            identifier = family.make_id(now_s)
            while identifier in known:
                identifier = family.make_id(now_s)
            made = Resource(
                family.kind, identifier, new_etag(), name, document, now_s, now_s, dict(tags)
            )
            self._put(transaction, made)
        return self._created(transaction.after, made)

    def _get(self, call: Call) -> Output:
        inventory = self._holdings.inventory()
        return self._output(inventory, self.family.find(inventory, call.input["Id"]))

    def _get_config(self, call: Call) -> Output:
        found = self.family.find(self._holdings.inventory(), call.input["Id"])
        return {self.family.config_member: dict(found.document), "ETag": found.etag}

    def _update(self, call: Call) -> Output:
        family = self.family
        document = family.complete(normalize(required(call.input, family.config_member)))
        with self._holdings.change() as transaction:
            old = self._changeable(transaction.before, call, "Update")
            family.check_update(old.document, document)
            name = family.name_of(document)
            for other in family.all(transaction.before).values():
                if other.id != old.id and family.name_of(other.document) == name:
                    raise ApiError(family.exists, f"{other.id} has this name already: {name}")
            new = replace(old, etag=new_etag(), name=name, document=document, modified_s=call.now_s)
            self._put(transaction, new)
        return self._output(transaction.after, new)

    def _delete(self, call: Call) -> Output:
        family = self.family
        with self._holdings.change() as transaction:
            old = self._changeable(transaction.before, call, "Delete")
            family.check_delete(old.document)
            for kind in family.used_by:
                for user in transaction.before.from_api[kind].values():
                    if family.reference_of(old.id) in references(user.document, family.reference):
                        raise ApiError(family.in_use, f"the {kind.value} {user.id} uses it")
            transaction.remove(old)
        return {}

    def _put(self, transaction: Transaction, resource: Resource) -> None:
        self.family.check(transaction.before, resource)
        transaction.put(resource)

    def _changeable(self, inventory: Inventory, call: Call, verb: str) -> Resource:
        """The resource that a call may change. Raises ApiError."""
        found = self.family.find(inventory, call.input["Id"])
        if self.family.is_managed(found):
            raise ApiError(f"Illegal{verb}", f"{found.id} is a managed policy")
        if inventory.from_api[self.family.kind].get(found.id) is not found:
            raise read_only_error(found)
        etag = call.input.get("IfMatch")
        if not etag:
            text = "the If-Match version is missing; it is the ETag of the resource"
            raise ApiError("InvalidIfMatchVersion", text)
        if etag != found.etag:
            raise ApiError("PreconditionFailed", f"{found.id} has changed since {etag}")
        return found

    def _created(self, inventory: Inventory, resource: Resource) -> Output:
        location = f"{VERSION_PATH}/{self.family.path}/{resource.id}"
        return {**self._output(inventory, resource), "Location": location}

    def _output(self, inventory: Inventory, resource: Resource) -> Output:
        return {self.family.member: self.family.shown(inventory, resource), "ETag": resource.etag}


def _is_taken_by(family: KindSpec, other: Resource, document: Document, name: str) -> bool:
    """Whether another resource has the name or the CallerReference of a document."""
    reference = document.get("CallerReference")
    return family.name_of(other.document) == name or (
        reference is not None and other.document.get("CallerReference") == reference
    )


def read_only_error(resource: Resource) -> ApiError:
    """A refusal to change what the config file says."""
    text = f"config.toml declares {resource.id}: it is changed there, and the edge reloaded"
    return ApiError("AccessDenied", text)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; ``next_marker`` is "" on the last one."""

    entries: tuple[Resource, ...]
    marker: str
    most: int
    next_marker: str

    def listing(self, entries: list[Any], *, has_marker: bool = True) -> dict[str, Any]:
        """As CloudFront writes it; lists of later years are without Marker and IsTruncated."""
        said: dict[str, Any] = {"MaxItems": self.most, "Quantity": len(entries)}
        if entries:
            said["Items"] = entries
        if self.next_marker:
            said["NextMarker"] = self.next_marker
        if has_marker:
            said |= {"Marker": self.marker, "IsTruncated": bool(self.next_marker)}
        return said


def page(call: Call, entries: Mapping[str, Resource]) -> Page:
    """The page of ``entries``, by id and in order, that a call asks for: those after its Marker.

    A marker is the last id of the page before, and need not exist any more: made ids sort by age.
    """
    marker = call.input.get("Marker") or ""
    most = max_items(call)
    order = list(entries)
    if not marker:
        after = order
    elif marker in entries:
        after = order[order.index(marker) + 1 :]
    else:
        after = [one for one in order if one > marker and entries[one].created_s]
    chosen = after[:most]
    is_truncated = len(after) > len(chosen)
    return Page(
        tuple(entries[identifier] for identifier in chosen),
        marker,
        most,
        chosen[-1] if is_truncated and chosen else "",
    )


def max_items(call: Call) -> int:
    """MaxItems of a call. Raises ApiError."""
    said = call.input.get("MaxItems")
    if said is None or said == "":
        return PAGE_STANDARD
    text = str(said)
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) < 1:
        raise invalid("MaxItems is a number from 1")
    return min(int(text), PAGE_MAX)
