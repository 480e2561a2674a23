"""Create, Get, Update, Delete and List, common to all kinds of resources.

This module handles ETags and If-Match, unique names, repeated creation, read-only resources,
resources in use, and pages of lists. A ``KindSpec`` has what differs between kinds: members, codes,
ids, and the checks of documents.
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
from streamedge.api.documents.lengths import require_lengths
from streamedge.api.errors import ApiError
from streamedge.api.protocol.service import API_VERSION, Call, Handler, Output
from streamedge.api.transactions import Resources, Transaction
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource
from streamedge.http_fields import parse_number

RESOURCES_MAX = 1000  # of one kind
PAGE_MAX = 1000
PAGE_DEFAULT = 100
VERSION_PATH = f"/{API_VERSION}"
_ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # in sort order
_ID_CHARACTERS = 13
_TIME_CHARACTERS = 7  # of an id: the seconds since 1970, enough until the year 4453


def new_etag() -> str:
    """An ETag in CloudFront's form, such as ``E2QWRUHAPOMQZL``."""
    return "E" + "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARACTERS))


def new_id(letter: str, now_s: float) -> str:
    """An id in CloudFront's form, such as ``E2QWRUHAPOMQZL``; ids sort by time."""
    number, text = int(now_s), ""
    for _ in range(_TIME_CHARACTERS):
        number, digit = divmod(number, len(_ID_LETTERS))
        text = _ID_LETTERS[digit] + text
    random_part = range(_ID_CHARACTERS - _TIME_CHARACTERS)
    return letter + text + "".join(secrets.choice(_ID_LETTERS) for _ in random_part)


def new_uuid(now_s: float) -> str:
    """An id of a policy or key group: UUID version 7 (RFC 9562 §5.7); they sort by time."""
    time_ms, random_bits = int(now_s * 1000) & (1 << 48) - 1, secrets.randbits(74)
    number = time_ms << 80 | 7 << 76 | random_bits >> 62 << 64 | 2 << 62
    number |= random_bits & (1 << 62) - 1
    return str(uuid.UUID(int=number))


def timestamp(time_s: float) -> datetime:
    """A time in seconds since 1970, in the form of documents."""
    return datetime.fromtimestamp(time_s, UTC)


def read_only_resource(kind: Kind, identifier: str, document: Document) -> Resource:
    """A resource outside the store: its ETag is a digest of its document, and its times are 0."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    etag = "E" + base64.b32encode(digest).decode()[:_ID_CHARACTERS]
    return Resource(kind, identifier, etag, "", document, 0.0, 0.0)


def _no_resources(_config: Config) -> Iterable[Resource]:
    return ()


def _accept_resource(_inventory: Inventory, _resource: Resource) -> None:
    return None


def _accept_update(_old: Document, _new: Document) -> None:
    return None


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What differs between kinds of resources.

    ``member`` is the member of outputs, ``config_member`` the member of inputs that has the
    document, ``path`` the part of a Location before the id. ``missing``, ``exists``, ``in_use`` and
    ``too_many`` are error codes.

    ``name_of`` returns the name of a document, which is unique among its kind, as the
    CallerReference is. ``is_repeatable``: creating the same document again returns the first
    resource. ``complete`` fills in CloudFront's defaults, ``to_output`` returns the member of
    outputs.

    ``from_file`` and ``managed`` are read-only resources. ``check`` raises ApiError if a resource
    conflicts with others, ``check_update`` if a document may not change in this way,
    ``check_delete`` if a resource may not be deleted. ``used_by`` names the kinds whose documents
    refer to this kind: they have ``reference_of`` the id at the member ``reference``.
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
    to_output: Callable[[Inventory, Resource], dict[str, Any]]
    is_repeatable: bool = False
    from_file: Callable[[Config], Iterable[Resource]] = _no_resources
    managed: tuple[Resource, ...] = ()
    check: Callable[[Inventory, Resource], None] = _accept_resource
    check_update: Callable[[Document, Document], None] = _accept_update
    check_delete: Callable[[Document], None] = lambda _document: None
    used_by: tuple[Kind, ...] = ()
    reference: str = ""
    reference_of: Callable[[str], str] = str

    def all(self, inventory: Inventory) -> dict[str, Resource]:
        """All resources of the kind by id: from the file, managed, then from the API, oldest first.

        If an id is used twice, the resource of the file wins.
        """
        resources = {one.id: one for one in self.from_file(inventory.from_file)}
        for resource in (*self.managed, *inventory.from_api[self.kind].values()):
            resources.setdefault(resource.id, resource)
        return resources

    def find(self, inventory: Inventory, identifier: str) -> Resource:
        """The resource with this id. Raises ApiError."""
        resource = self.all(inventory).get(identifier)
        if resource is None:
            raise ApiError(self.missing, f"there is no {self.kind.value} with the id {identifier}")
        return resource

    def is_managed(self, resource: Resource) -> bool:
        return any(managed.id == resource.id for managed in self.managed)


class ResourceCalls:
    """The handlers of one kind of resource."""

    def __init__(self, spec: KindSpec, resources: Resources) -> None:
        self.spec = spec
        self._resources = resources

    def handlers(self) -> dict[str, Handler]:
        """The handlers by the names of CloudFront's operations."""
        member = self.spec.member
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
        """Creates a resource from ``document``, or from the call's own document."""
        spec = self.spec
        if document is None:
            document = required(call.input, spec.config_member)
        document = _complete(spec, document)
        name = spec.name_of(document)
        with self._resources.change() as transaction:
            existing = spec.all(transaction.before)
            for other in existing.values():
                if _conflicts(spec, other, document, name):
                    if spec.is_repeatable and other.document == document:
                        return self._created(transaction.before, other)
                    text = f"{other.id} has this name or CallerReference already: {name}"
                    raise ApiError(spec.exists, text)
            if len(transaction.before.from_api[spec.kind]) >= RESOURCES_MAX:
                raise ApiError(spec.too_many, f"there are {RESOURCES_MAX} of this kind already")
            now_s = call.now_s
            identifier = spec.make_id(now_s)
            while identifier in existing:
                identifier = spec.make_id(now_s)
            resource = Resource(
                spec.kind, identifier, new_etag(), name, document, now_s, now_s, dict(tags)
            )
            self._put(transaction, resource)
        return self._created(transaction.after, resource)

    def _get(self, call: Call) -> Output:
        inventory = self._resources.inventory()
        return self._output(inventory, self.spec.find(inventory, call.input["Id"]))

    def _get_config(self, call: Call) -> Output:
        resource = self.spec.find(self._resources.inventory(), call.input["Id"])
        return {self.spec.config_member: dict(resource.document), "ETag": resource.etag}

    def _update(self, call: Call) -> Output:
        spec = self.spec
        document = _complete(spec, required(call.input, spec.config_member))
        with self._resources.change() as transaction:
            old = self._changeable(transaction.before, call, "Update")
            spec.check_update(old.document, document)
            name = spec.name_of(document)
            for other in spec.all(transaction.before).values():
                if other.id != old.id and spec.name_of(other.document) == name:
                    raise ApiError(spec.exists, f"{other.id} has this name already: {name}")
            new = replace(old, etag=new_etag(), name=name, document=document, modified_s=call.now_s)
            self._put(transaction, new)
        return self._output(transaction.after, new)

    def _delete(self, call: Call) -> Output:
        spec = self.spec
        with self._resources.change() as transaction:
            old = self._changeable(transaction.before, call, "Delete")
            spec.check_delete(old.document)
            for kind in spec.used_by:
                for user in transaction.before.from_api[kind].values():
                    if spec.reference_of(old.id) in references(user.document, spec.reference):
                        raise ApiError(spec.in_use, f"the {kind.value} {user.id} uses it")
            transaction.remove(old)
        return {}

    def _put(self, transaction: Transaction, resource: Resource) -> None:
        self.spec.check(transaction.before, resource)
        transaction.put(resource)

    def _changeable(self, inventory: Inventory, call: Call, verb: str) -> Resource:
        """The resource of a call that changes it. Raises ApiError if it may not be changed."""
        resource = self.spec.find(inventory, call.input["Id"])
        if self.spec.is_managed(resource):
            raise ApiError(f"Illegal{verb}", f"{resource.id} is a managed policy")
        if inventory.from_api[self.spec.kind].get(resource.id) is not resource:
            raise read_only_error(resource)
        etag = call.input.get("IfMatch")
        if not etag:
            text = "the If-Match version is missing: send the ETag of the resource"
            raise ApiError("InvalidIfMatchVersion", text)
        if etag != resource.etag:
            raise ApiError("PreconditionFailed", f"{resource.id} has changed since {etag}")
        return resource

    def _created(self, inventory: Inventory, resource: Resource) -> Output:
        location = f"{VERSION_PATH}/{self.spec.path}/{resource.id}"
        return {**self._output(inventory, resource), "Location": location}

    def _output(self, inventory: Inventory, resource: Resource) -> Output:
        return {self.spec.member: self.spec.to_output(inventory, resource), "ETag": resource.etag}


def _complete(spec: KindSpec, document: Document) -> dict[str, Any]:
    """The document of a call with all its members. Raises ApiError."""
    document = normalize(document)
    require_lengths(spec.config_member, document)
    return spec.complete(document)


def _conflicts(spec: KindSpec, other: Resource, document: Document, name: str) -> bool:
    """Whether another resource has the same name or CallerReference as a document."""
    reference = document.get("CallerReference")
    return spec.name_of(other.document) == name or (
        reference is not None and other.document.get("CallerReference") == reference
    )


def read_only_error(resource: Resource) -> ApiError:
    """The error for a change of a resource of the config file."""
    text = f"config.toml declares {resource.id}: change it there and reload the edge"
    return ApiError("AccessDenied", text)


def check_same_caller_reference(old: Document, new: Document) -> None:
    """Raises ApiError IllegalUpdate if the CallerReference changes."""
    if old["CallerReference"] != new["CallerReference"]:
        raise ApiError("IllegalUpdate", "CallerReference cannot change")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; ``next_marker`` is "" on the last page."""

    entries: tuple[Resource, ...]
    marker: str
    max_items: int
    next_marker: str

    def listing(self, entries: list[Any], *, has_marker: bool = True) -> dict[str, Any]:
        """The page as a document; newer lists of CloudFront have no Marker and IsTruncated."""
        document: dict[str, Any] = {"MaxItems": self.max_items, "Quantity": len(entries)}
        if entries:
            document["Items"] = entries
        if self.next_marker:
            document["NextMarker"] = self.next_marker
        if has_marker:
            document |= {"Marker": self.marker, "IsTruncated": bool(self.next_marker)}
        return document


def page_of(call: Call, entries: Mapping[str, Resource]) -> Page:
    """The page of ``entries`` (ordered, by id) after the Marker of a call.

    A marker is the last id of the previous page. It may be deleted by now, because ids sort by
    time.
    """
    marker = call.input.get("Marker") or ""
    limit = max_items(call)
    order = list(entries)
    if not marker:
        after = order
    elif marker in entries:
        after = order[order.index(marker) + 1 :]
    else:
        after = [one for one in order if one > marker and entries[one].created_s]
    ids = after[:limit]
    is_truncated = len(after) > len(ids)
    return Page(
        tuple(entries[identifier] for identifier in ids),
        marker,
        limit,
        ids[-1] if is_truncated and ids else "",
    )


def max_items(call: Call) -> int:
    """The MaxItems of a call, or its default. Raises ApiError."""
    value = call.input.get("MaxItems")
    if value is None or value == "":
        return PAGE_DEFAULT
    count = parse_number(str(value), 9)
    if not count:
        raise invalid("MaxItems must be a number from 1")
    return min(count, PAGE_MAX)
