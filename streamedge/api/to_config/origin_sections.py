"""Converts the origins of a document to origins of the config.

An origin or group whose Id is a name in config.toml refers to that one. A bucket's DomainName at
AWS refers to an origin of the file with that bucket, with its endpoint and credentials. Any other
origin is created: a bucket, signed with the AWS credential chain where an access control or
identity is named, or an HTTP server. Additions to an origin of the file (OriginPath, CustomHeaders)
create a copy.

Two settings depend on the behavior as well, so one origin may be created twice: whether the
viewer's Host is forwarded, and the scheme for match-viewer. One cached copy serves viewers of both
schemes here, so match-viewer is https, except where the edge listens for plain HTTP only and the
behavior allows it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from streamedge.api.documents.documents import (
    Document,
    entries_of,
    invalid,
    not_offered,
    required,
    section,
)
from streamedge.api.documents.inventory import API_PREFIX, Inventory
from streamedge.api.errors import ApiError
from streamedge.config.schema.config import (
    AnyOriginConfig,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginGroupConfig,
    S3OriginConfig,
)
from streamedge.control.resources import Kind

STANDARD_READ_TIMEOUT_S = 30
STANDARD_CONNECT_TIMEOUT_S = 10
ORIGINS_MAX = 100
GROUP_MEMBERS = 2
_S3_DOMAIN = re.compile(
    r"(?P<bucket>[A-Za-z0-9._-]{1,255})\.s3(?:[.-](?:dualstack\.)?(?!website|accelerate)"
    r"(?P<region>[a-z0-9-]{1,64}))?\.amazonaws\.com(?:\.cn)?"
)
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_IDENTITY = re.compile(r"(?:origin-access-identity/cloudfront/[A-Za-z0-9]{1,64})?")
_FAILOVER_STATUSES = frozenset({400, 403, 404, 416, 429, 500, 502, 503, 504})


class OriginSections:
    """The origins of one distribution's document: made as its behaviors ask for them.

    ``origins`` and ``groups`` are what there is to be added to the config, by name. Raises
    ApiError, already when it is made, for an origin that will not do, used or not.
    """

    def __init__(self, inventory: Inventory, distribution_id: str, document: Document) -> None:
        self._inventory = inventory
        self._distribution_id = distribution_id
        self._origins = _by_id(entries_of(document, "Origins"), "Origins")
        self._groups = _by_id(entries_of(document, "OriginGroups"), "OriginGroups")
        if not 1 <= len(self._origins) <= ORIGINS_MAX:
            raise ApiError("TooManyOrigins", f"a distribution has 1 to {ORIGINS_MAX} origins")
        if both := self._origins.keys() & self._groups.keys():
            raise invalid(f"an origin and an origin group have the Id {min(both)}")
        self.origins: dict[str, AnyOriginConfig] = {}
        self.groups: dict[str, OriginGroupConfig] = {}
        for identifier in (*self._origins, *self._groups):
            self.name_of(identifier, sends_viewer_host=False, needs_https=False)
        self.origins.clear()
        self.groups.clear()

    def name_of(self, identifier: str, *, sends_viewer_host: bool, needs_https: bool) -> str:
        """The config's name of a behavior's target. Raises ApiError NoSuchOrigin.

        ``needs_https``: no viewer of the behavior comes over plain HTTP.
        """
        if identifier in self._groups:
            return self._group(identifier, sends_viewer_host, needs_https)
        if identifier not in self._origins:
            raise ApiError("NoSuchOrigin", f"no origin or origin group has the Id {identifier}")
        return self._origin(identifier, sends_viewer_host, needs_https)

    def kind_of(self, name: str) -> str:
        """The type of the origin that writes to ``name``, a name that this gave, go to."""
        declared = self._inventory.from_file
        group = self.groups.get(name) or declared.origin_groups.get(name)
        first = group.origins[0] if group else name
        return (self.origins.get(first) or declared.origins[first]).type

    def _group(self, identifier: str, sends_viewer_host: bool, needs_https: bool) -> str:
        if identifier in self._inventory.from_file.origin_groups:
            return identifier
        group = self._groups[identifier]
        where = f"OriginGroups: {identifier}"
        if group.get("SelectionCriteria", "default") != "default":
            raise not_offered(f"{where}: SelectionCriteria {group['SelectionCriteria']}")
        members = [member["OriginId"] for member in entries_of(group, "Members")]
        if len(members) != GROUP_MEMBERS or len(set(members)) != len(members):
            raise invalid(f"{where}: Members are two origins")
        statuses = entries_of(group.get("FailoverCriteria") or {}, "StatusCodes")
        if not statuses or not _FAILOVER_STATUSES.issuperset(statuses):
            allowed = ", ".join(map(str, sorted(_FAILOVER_STATUSES)))
            raise invalid(f"{where}: StatusCodes are some of {allowed}")
        names = []
        for member in members:
            if member not in self._origins:
                raise ApiError("NoSuchOrigin", f"{where}: no origin has the Id {member}")
            if member in self._inventory.from_file.origin_groups:
                raise invalid(f"{where}: {member} is a group itself")
            names.append(self._origin(member, sends_viewer_host, needs_https))
        values = {"origins": names, "failover": [*statuses, "connect", "timeout"]}
        # A group of other variants is another group.
        variants = {"https": needs_https, "viewer-host": sends_viewer_host}
        name = self._name(identifier, *(word for word, is_so in variants.items() if is_so))
        self.groups[name] = section(OriginGroupConfig, values, where)
        return name

    def _origin(self, identifier: str, sends_viewer_host: bool, needs_https: bool) -> str:
        document = self._origins[identifier]
        where = f"Origins: {identifier}"
        _refuse_unknown(document, where)
        added = _additions(document)
        known = self._declared_name(identifier, document)
        if known is not None:
            if not added:
                return known
            if known not in self._inventory.from_file.origins:
                raise invalid(
                    f"{where}: {known} is declared as a group: it takes no path or header"
                )
            declared = self._inventory.from_file.origins[known]
            name = self._name(identifier)
            self.origins[name] = _with_additions(declared, added, where)
            return name
        if document.get("S3OriginConfig") is not None or _S3_DOMAIN.fullmatch(
            document["DomainName"]
        ):
            name = self._name(identifier)
            self.origins[name] = self._bucket(document, added, where)
            return name
        return self._server(identifier, document, added, sends_viewer_host, needs_https)

    def _name(self, identifier: str, *variants: str) -> str:
        """A name in the config: no two Ids or variants have the same, for no id has a colon."""
        before = "".join(f"{variant}+" for variant in variants)
        return f"{before}{API_PREFIX}{self._distribution_id}:{identifier}"

    def _declared_name(self, identifier: str, document: Document) -> str | None:
        declared = self._inventory.from_file
        if identifier in declared.origins or identifier in declared.origin_groups:
            return identifier
        return origin_of_bucket(self._inventory, document["DomainName"])

    def _bucket(self, document: Document, added: dict[str, Any], where: str) -> AnyOriginConfig:
        domain = document["DomainName"]
        if (document.get("S3OriginConfig") or {}).get("OriginAccessIdentity") and document.get(
            "OriginAccessControlId"
        ):
            text = f"{where}: an origin access control and an identity exclude each other"
            raise ApiError("IllegalOriginAccessConfiguration", text)
        is_signed = names_identity(
            (document.get("S3OriginConfig") or {}).get("OriginAccessIdentity")
        )
        if control := document.get("OriginAccessControlId"):
            is_signed = self._signs(control, where)
        return bucket_section(
            domain,
            is_signed=is_signed,
            values=added | _timeouts(document, "S3OriginConfig"),
            where=where,
        )

    def _signs(self, control: str, where: str) -> bool:
        found = self._inventory.from_api[Kind.ORIGIN_ACCESS_CONTROL].get(control)
        if found is None:
            text = f"{where}: there is no origin access control with the id {control}"
            raise ApiError("InvalidOriginAccessControl", text)
        return bool(found.document["SigningBehavior"] != "never")

    def _server(
        self,
        identifier: str,
        document: Document,
        added: dict[str, Any],
        sends_viewer_host: bool,
        needs_https: bool,
    ) -> str:
        where = f"Origins: {identifier}"
        if document.get("OriginAccessControlId"):
            text = f"{where}: an origin access control is for buckets"
            raise ApiError("InvalidOriginAccessControl", text)
        server = document.get("CustomOriginConfig")
        if server is None:
            raise ApiError(
                "InvalidOrigin", f"{where}: S3OriginConfig or CustomOriginConfig is missing"
            )
        domain = required(document, "DomainName")
        if not _DOMAIN.fullmatch(domain):
            raise ApiError("InvalidOrigin", f"{where}: DomainName is no host name")
        policy = required(server, "OriginProtocolPolicy")
        is_https = policy == "https-only"
        variants = []
        if policy == "match-viewer":
            is_https = needs_https or bool(self._inventory.from_file.listen.https)
            variants.append("https" if is_https else "http")
        scheme, port, standard = (
            ("https", server.get("HTTPSPort", 443), 443)
            if is_https
            else ("http", server.get("HTTPPort", 80), 80)
        )
        if not 1 <= port <= 65_535:
            raise invalid(f"{where}: {port} is no port")
        if sends_viewer_host:
            variants.append("viewer-host")
        name = self._name(identifier, *variants)
        values: dict[str, Any] = {
            "type": "http",
            "url": f"{scheme}://{domain}" + ("" if port == standard else f":{port}"),
            "host": "viewer" if sends_viewer_host else "origin",
            "total_timeout": document.get("ResponseCompletionTimeout") or 0,
            **_timeouts(document, "CustomOriginConfig"),
            **added,
        }
        self.origins[name] = section(HttpOriginConfig, values, where)
        return name


def bucket_section(
    domain: str, *, is_signed: bool, values: Mapping[str, Any], where: str
) -> S3OriginConfig:
    """A bucket of AWS by its DomainName. Raises ApiError InvalidOrigin where that names none."""
    match = _S3_DOMAIN.fullmatch(domain)
    if match is None:
        text = (
            f"{where}: DomainName is BUCKET.s3.REGION.amazonaws.com, and for a bucket elsewhere the"
            " Id is the name of an origin that config.toml declares"
        )
        raise ApiError("InvalidOrigin", text)
    said = {"type": "s3", "bucket": match["bucket"], "anonymous": not is_signed, **values}
    if match["region"]:
        said["region"] = match["region"]
    return section(S3OriginConfig, said, where)


def origin_of_bucket(inventory: Inventory, domain: str) -> str | None:
    """The first declared origin that has the bucket of a DomainName at AWS; None without."""
    match = _S3_DOMAIN.fullmatch(domain)
    if match is None:
        return None
    for name, origin in inventory.from_file.origins.items():
        if isinstance(origin, S3OriginConfig) and origin.bucket == match["bucket"]:
            return name
    return None


def names_identity(text: str | None) -> bool:
    """Whether an origin access identity is named. Raises ApiError for what cannot be one."""
    if not _IDENTITY.fullmatch(text or ""):
        expected = "origin-access-identity/cloudfront/ID or empty"
        raise ApiError("InvalidOriginAccessIdentity", f"OriginAccessIdentity is {expected}")
    return bool(text)


def _by_id(documents: list[Document], where: str) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for document in documents:
        identifier = required(document, "Id")
        if identifier in found:
            raise invalid(f"{where}: two have the Id {identifier}")
        found[identifier] = document
    return found


def _additions(document: Document) -> dict[str, Any]:
    """What OriginPath and CustomHeaders come to, nothing where they say nothing."""
    said: dict[str, Any] = {}
    if path := document.get("OriginPath"):
        # Dots would lead out of a declared origin's folder.
        if not path.startswith("/") or not {"", ".", ".."}.isdisjoint(path[1:].split("/")):
            raise invalid(
                'OriginPath begins with "/", does not end so, and has no "." or ".." in it'
            )
        said["prefix"] = path[1:] + "/"
    headers: dict[str, str] = {}
    for entry in entries_of(document, "CustomHeaders"):
        if entry["HeaderName"].lower() in {name.lower() for name in headers}:
            raise invalid(f"CustomHeaders: {entry['HeaderName']} stands there twice")
        headers[entry["HeaderName"]] = entry["HeaderValue"]
    return said | ({"headers": headers} if headers else {})


def _with_additions(
    declared: AnyOriginConfig, added: dict[str, Any], where: str
) -> AnyOriginConfig:
    values = dict(declared)
    if "prefix" in added:
        values["prefix"] = declared.prefix + added["prefix"]
    if "headers" in added:
        if isinstance(declared, DirectoryOriginConfig):
            raise invalid(f"{where}: CustomHeaders: a folder takes no header")
        values["headers"] = {**declared.headers, **added["headers"]}
    return section(type(declared), values, where)


def _timeouts(document: Document, member: str) -> dict[str, Any]:
    config = document.get(member) or {}
    connect_s = document.get("ConnectionTimeout", STANDARD_CONNECT_TIMEOUT_S)
    attempts = document.get("ConnectionAttempts", 3)
    if not 1 <= connect_s <= 10 or not 1 <= attempts <= 3:
        raise invalid("ConnectionTimeout is 1 to 10 seconds, ConnectionAttempts 1 to 3")
    read_s = config.get("OriginReadTimeout", STANDARD_READ_TIMEOUT_S)
    if not 1 <= read_s <= 180:
        raise ApiError("InvalidOriginReadTimeout", "OriginReadTimeout is 1 to 180 seconds")
    return {"connect_timeout": connect_s, "read_timeout": read_s}


def _refuse_unknown(document: Document, where: str) -> None:
    required(document, "DomainName")
    if document.get("VpcOriginConfig"):
        raise not_offered(f"{where}: VpcOriginConfig")
    if (
        document.get("CustomOriginConfig") is not None
        and document.get("S3OriginConfig") is not None
    ):
        raise invalid(f"{where}: S3OriginConfig and CustomOriginConfig exclude each other")
    server = document.get("CustomOriginConfig") or {}
    if server.get("OriginMtlsConfig"):
        why = "declare the origin in config.toml, with client_certificate"
        raise not_offered(f"{where}: OriginMtlsConfig", why)
    protocols = entries_of(server, "OriginSslProtocols")
    uses_tls = server.get("OriginProtocolPolicy") != "http-only"
    if uses_tls and protocols and "TLSv1.2" not in protocols:
        text = f"{where}: OriginSslProtocols: the edge speaks TLS 1.2 and later"
        raise ApiError("InvalidProtocolSettings", text)
    if document.get("S3OriginConfig") is not None and document.get("ResponseCompletionTimeout"):
        raise not_offered(f"{where}: ResponseCompletionTimeout of a bucket")
