"""Converts the origins of a document to origins of the config.

An origin or group whose Id is a name in config.toml refers to that one. A bucket's DomainName at
AWS refers to an origin of the file with that bucket, with its endpoint and credentials. Any other
origin is created: a bucket, signed with the AWS credential chain where an access control or
identity is named, or an HTTP server. Additions to an origin of the file (OriginPath, CustomHeaders)
create a copy.

Two settings depend on the behavior too, so one origin may be created twice: whether the viewer's
Host is forwarded, and the scheme for match-viewer. One cached copy serves viewers of both schemes
here, so match-viewer means https, unless the edge listens for plain HTTP only and the behavior
allows it. Pure.
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

DEFAULT_READ_TIMEOUT_S = 30
DEFAULT_CONNECT_TIMEOUT_S = 10
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
    """The origins of one distribution's document, created when its behaviors refer to them.

    ``origins`` and ``groups`` are the sections to add to the config, by name. The constructor
    raises ApiError for an invalid origin, even if no behavior uses it.
    """

    def __init__(self, inventory: Inventory, distribution_id: str, document: Document) -> None:
        self._inventory = inventory
        self._distribution_id = distribution_id
        self._origins = _by_id(entries_of(document, "Origins"), "Origins")
        self._groups = _by_id(entries_of(document, "OriginGroups"), "OriginGroups")
        if not 1 <= len(self._origins) <= ORIGINS_MAX:
            raise ApiError("TooManyOrigins", f"a distribution has 1 to {ORIGINS_MAX} origins")
        if shared := self._origins.keys() & self._groups.keys():
            raise invalid(f"an origin and an origin group have the same Id {min(shared)}")
        self.origins: dict[str, AnyOriginConfig] = {}
        self.groups: dict[str, OriginGroupConfig] = {}
        for identifier in (*self._origins, *self._groups):
            self.name_of(identifier, sends_viewer_host=False, needs_https=False)
        self.origins.clear()
        self.groups.clear()

    def name_of(self, identifier: str, *, sends_viewer_host: bool, needs_https: bool) -> str:
        """The config name of a behavior's target. Raises ApiError NoSuchOrigin.

        ``needs_https``: the behavior allows no viewer over plain HTTP.
        """
        if identifier in self._groups:
            return self._group(identifier, sends_viewer_host, needs_https)
        if identifier not in self._origins:
            raise ApiError("NoSuchOrigin", f"no origin or origin group has the Id {identifier}")
        return self._origin(identifier, sends_viewer_host, needs_https)

    def kind_of(self, name: str) -> str:
        """The type of the origin that receives the writes to ``name``, a result of ``name_of``."""
        from_file = self._inventory.from_file
        group = self.groups.get(name) or from_file.origin_groups.get(name)
        first = group.origins[0] if group else name
        return (self.origins.get(first) or from_file.origins[first]).type

    def _group(self, identifier: str, sends_viewer_host: bool, needs_https: bool) -> str:
        if identifier in self._inventory.from_file.origin_groups:
            return identifier
        group = self._groups[identifier]
        where = f"OriginGroups: {identifier}"
        if group.get("SelectionCriteria", "default") != "default":
            raise not_offered(f"{where}: SelectionCriteria {group['SelectionCriteria']}")
        members = [member["OriginId"] for member in entries_of(group, "Members")]
        if len(members) != GROUP_MEMBERS or len(set(members)) != len(members):
            raise invalid(f"{where}: Members must be two different origins")
        statuses = entries_of(group.get("FailoverCriteria") or {}, "StatusCodes")
        if not statuses or not _FAILOVER_STATUSES.issuperset(statuses):
            allowed = ", ".join(map(str, sorted(_FAILOVER_STATUSES)))
            raise invalid(f"{where}: StatusCodes must be some of {allowed}")
        names = []
        for member in members:
            if member not in self._origins:
                raise ApiError("NoSuchOrigin", f"{where}: no origin has the Id {member}")
            if member in self._inventory.from_file.origin_groups:
                raise invalid(f"{where}: {member} is a group; name an origin")
            names.append(self._origin(member, sends_viewer_host, needs_https))
        values = {"origins": names, "failover": [*statuses, "connect", "timeout"]}
        # The variants of the members are part of the group's name.
        variants = {"https": needs_https, "viewer-host": sends_viewer_host}
        name = self._name(identifier, *(word for word, is_so in variants.items() if is_so))
        self.groups[name] = section(OriginGroupConfig, values, where)
        return name

    def _origin(self, identifier: str, sends_viewer_host: bool, needs_https: bool) -> str:
        document = self._origins[identifier]
        where = f"Origins: {identifier}"
        _refuse_unsupported(document, where)
        additions = _additions(document)
        file_name = self._name_in_file(identifier, document)
        if file_name is not None:
            if not additions:
                return file_name
            if file_name not in self._inventory.from_file.origins:
                raise invalid(
                    f"{where}: {file_name} is a group in config.toml: it accepts no path or header"
                )
            origin = self._inventory.from_file.origins[file_name]
            name = self._name(identifier)
            self.origins[name] = _with_additions(origin, additions, where)
            return name
        if document.get("S3OriginConfig") is not None or _S3_DOMAIN.fullmatch(
            document["DomainName"]
        ):
            name = self._name(identifier)
            self.origins[name] = self._bucket(document, additions, where)
            return name
        return self._server(identifier, document, additions, sends_viewer_host, needs_https)

    def _name(self, identifier: str, *variants: str) -> str:
        """A config name, different for each Id and variant, because ids have no colon."""
        prefix = "".join(f"{variant}+" for variant in variants)
        return f"{prefix}{API_PREFIX}{self._distribution_id}:{identifier}"

    def _name_in_file(self, identifier: str, document: Document) -> str | None:
        from_file = self._inventory.from_file
        if identifier in from_file.origins or identifier in from_file.origin_groups:
            return identifier
        return origin_of_bucket(self._inventory, document["DomainName"])

    def _bucket(self, document: Document, additions: dict[str, Any], where: str) -> AnyOriginConfig:
        domain = document["DomainName"]
        if (document.get("S3OriginConfig") or {}).get("OriginAccessIdentity") and document.get(
            "OriginAccessControlId"
        ):
            text = f"{where}: use an origin access control or an identity, not both"
            raise ApiError("IllegalOriginAccessConfiguration", text)
        is_signed = names_identity(
            (document.get("S3OriginConfig") or {}).get("OriginAccessIdentity")
        )
        if control := document.get("OriginAccessControlId"):
            is_signed = self._signs(control, where)
        return bucket_section(
            domain,
            is_signed=is_signed,
            values=additions | _timeouts(document, "S3OriginConfig"),
            where=where,
        )

    def _signs(self, control: str, where: str) -> bool:
        resource = self._inventory.from_api[Kind.ORIGIN_ACCESS_CONTROL].get(control)
        if resource is None:
            text = f"{where}: there is no origin access control with the id {control}"
            raise ApiError("InvalidOriginAccessControl", text)
        return bool(resource.document["SigningBehavior"] != "never")

    def _server(
        self,
        identifier: str,
        document: Document,
        additions: dict[str, Any],
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
            raise ApiError("InvalidOrigin", f"{where}: DomainName is not a host name")
        policy = required(server, "OriginProtocolPolicy")
        is_https = policy == "https-only"
        variants = []
        if policy == "match-viewer":
            is_https = needs_https or self._inventory.from_file.serves_https
            variants.append("https" if is_https else "http")
        scheme, port, default_port = (
            ("https", server.get("HTTPSPort", 443), 443)
            if is_https
            else ("http", server.get("HTTPPort", 80), 80)
        )
        if not 1 <= port <= 65_535:
            raise invalid(f"{where}: {port} is not a port")
        if sends_viewer_host:
            variants.append("viewer-host")
        name = self._name(identifier, *variants)
        values: dict[str, Any] = {
            "type": "http",
            "url": f"{scheme}://{domain}" + ("" if port == default_port else f":{port}"),
            "host": "viewer" if sends_viewer_host else "origin",
            "total_timeout": document.get("ResponseCompletionTimeout") or 0,
            **_timeouts(document, "CustomOriginConfig"),
            **additions,
        }
        self.origins[name] = section(HttpOriginConfig, values, where)
        return name


def bucket_section(
    domain: str, *, is_signed: bool, values: Mapping[str, Any], where: str
) -> S3OriginConfig:
    """The section of an AWS bucket. Raises ApiError InvalidOrigin if ``domain`` is not one."""
    match = _S3_DOMAIN.fullmatch(domain)
    if match is None:
        text = (
            f"{where}: DomainName must be BUCKET.s3.REGION.amazonaws.com; for a bucket elsewhere,"
            " the Id must be the name of an origin in config.toml"
        )
        raise ApiError("InvalidOrigin", text)
    section_values = {"type": "s3", "bucket": match["bucket"], "anonymous": not is_signed, **values}
    if match["region"]:
        section_values["region"] = match["region"]
    return section(S3OriginConfig, section_values, where)


def origin_of_bucket(inventory: Inventory, domain: str) -> str | None:
    """The name of the file's first origin with the bucket of an AWS DomainName, or None."""
    match = _S3_DOMAIN.fullmatch(domain)
    if match is None:
        return None
    for name, origin in inventory.from_file.origins.items():
        if isinstance(origin, S3OriginConfig) and origin.bucket == match["bucket"]:
            return name
    return None


def names_identity(text: str | None) -> bool:
    """Whether ``text`` names an origin access identity. Raises ApiError for other text."""
    if not _IDENTITY.fullmatch(text or ""):
        expected = "origin-access-identity/cloudfront/ID or empty"
        raise ApiError("InvalidOriginAccessIdentity", f"OriginAccessIdentity must be {expected}")
    return bool(text)


def _by_id(documents: list[Document], where: str) -> dict[str, Document]:
    by_id: dict[str, Document] = {}
    for document in documents:
        identifier = required(document, "Id")
        if identifier in by_id:
            raise invalid(f"{where}: the Id {identifier} is repeated")
        by_id[identifier] = document
    return by_id


def _additions(document: Document) -> dict[str, Any]:
    """The settings of OriginPath and CustomHeaders; {} if both are empty."""
    additions: dict[str, Any] = {}
    if path := document.get("OriginPath"):
        # Dots would lead out of the folder of an origin of the file.
        if not path.startswith("/") or not {"", ".", ".."}.isdisjoint(path[1:].split("/")):
            raise invalid(
                'OriginPath must begin with "/", not end with it, and have no segment "." or ".."'
            )
        additions["prefix"] = path[1:] + "/"
    headers: dict[str, str] = {}
    for entry in entries_of(document, "CustomHeaders"):
        if entry["HeaderName"].lower() in {name.lower() for name in headers}:
            raise invalid(f"CustomHeaders: {entry['HeaderName']} is repeated")
        headers[entry["HeaderName"]] = entry["HeaderValue"]
    return additions | ({"headers": headers} if headers else {})


def _with_additions(
    origin: AnyOriginConfig, additions: dict[str, Any], where: str
) -> AnyOriginConfig:
    values = dict(origin)
    if "prefix" in additions:
        values["prefix"] = origin.prefix + additions["prefix"]
    if "headers" in additions:
        if isinstance(origin, DirectoryOriginConfig):
            raise invalid(f"{where}: CustomHeaders: a folder accepts no header")
        values["headers"] = {**origin.headers, **additions["headers"]}
    return section(type(origin), values, where)


def _timeouts(document: Document, member: str) -> dict[str, Any]:
    config = document.get(member) or {}
    connect_s = document.get("ConnectionTimeout", DEFAULT_CONNECT_TIMEOUT_S)
    attempts = document.get("ConnectionAttempts", 3)
    if not 1 <= connect_s <= 10 or not 1 <= attempts <= 3:
        raise invalid("ConnectionTimeout must be 1 to 10 seconds, ConnectionAttempts 1 to 3")
    read_s = config.get("OriginReadTimeout", DEFAULT_READ_TIMEOUT_S)
    if not 1 <= read_s <= 180:
        raise ApiError("InvalidOriginReadTimeout", "OriginReadTimeout must be 1 to 180 seconds")
    return {"connect_timeout": connect_s, "read_timeout": read_s}


def _refuse_unsupported(document: Document, where: str) -> None:
    required(document, "DomainName")
    if document.get("VpcOriginConfig"):
        raise not_offered(f"{where}: VpcOriginConfig")
    if (
        document.get("CustomOriginConfig") is not None
        and document.get("S3OriginConfig") is not None
    ):
        raise invalid(f"{where}: use S3OriginConfig or CustomOriginConfig, not both")
    server = document.get("CustomOriginConfig") or {}
    if server.get("OriginMtlsConfig"):
        reason = "declare the origin in config.toml, with client_certificate"
        raise not_offered(f"{where}: OriginMtlsConfig", reason)
    protocols = entries_of(server, "OriginSslProtocols")
    uses_tls = server.get("OriginProtocolPolicy") != "http-only"
    if uses_tls and protocols and "TLSv1.2" not in protocols:
        text = f"{where}: OriginSslProtocols: the edge supports TLS 1.2 and later"
        raise ApiError("InvalidProtocolSettings", text)
    if document.get("S3OriginConfig") is not None and document.get("ResponseCompletionTimeout"):
        raise not_offered(f"{where}: ResponseCompletionTimeout of a bucket")
