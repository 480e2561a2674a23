"""Writes records to a PowerDNS server through its HTTP API, and asks it for a name.

The API is that of PowerDNS Authoritative Server 4.4 and later (/api/v1). Only records that an
earlier push made are removed; others of the same zone stay as they are.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from streamedge.errors import StreamEdgeError
from streamedge.fleet.zone import (
    REGISTRY_LABEL,
    RecordSet,
    is_own_record,
    is_within,
    registered_names,
)

TIMEOUT_S = 30.0
RESPONSE_MAX_BYTES = 64 << 20
QUERY_TIMEOUT_S = 5.0
CHECK_INTERVAL_S, CHECK_INTERVAL_MAX_S = 5.0, 60.0  # PowerDNS's default
_TYPES = {"A": 1, "AAAA": 28}
_INTERNET = 1
_RECURSION_DESIRED = 0x0100


class PowerDnsError(StreamEdgeError):
    """PowerDNS does not answer or refuses; the message says what to do."""


class Change(NamedTuple):
    """A record set that a push has changed. ``word``: added, replaced or removed."""

    word: str
    name: str
    type: str


class PowerDns:
    """The API at ``url`` (http://HOST:8081), with its key."""

    def __init__(self, url: str, api_key: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise PowerDnsError(f"{url} is no URL of PowerDNS's API, such as http://127.0.0.1:8081")
        self.host = parts.hostname
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/") or "/api/v1/servers/localhost"
        self._api_key = api_key

    def zones(self) -> list[str]:
        """The names of all zones, without the dot at the end. Raises PowerDnsError."""
        return [str(zone["name"]).rstrip(".") for zone in self._call("GET", "/zones")]

    def check_interval_s(self) -> float:
        """Seconds between its checks of edges. Raises PowerDnsError."""
        settings = self._call("GET", "/config")
        values = {str(one.get("name")): one.get("value") for one in settings}
        try:
            return min(CHECK_INTERVAL_MAX_S, float(values["lua-health-checks-interval"]))
        except (KeyError, TypeError, ValueError):
            return CHECK_INTERVAL_S

    def push(
        self, zone: str, records: Sequence[RecordSet], nameservers: Sequence[str]
    ) -> list[Change]:
        """Makes the zone if it is not there, and its records; what has changed.

        Raises PowerDnsError.
        """
        if zone not in self.zones():
            names = [f"{server.rstrip('.')}." for server in nameservers] or [f"ns1.{zone}."]
            new = {
                "name": f"{zone}.",
                "kind": "Native",
                "nameservers": names,
                "soa_edit_api": "DEFAULT",
            }
            self._call("POST", "/zones", new)
        path = f"/zones/{quote(zone + '.', safe='')}"
        present = _by_key(self._call("GET", path)["rrsets"])
        new_sets = {(record.name, record.type): record for record in records}
        _check_conflicts(zone, new_sets, present)
        changes, patches = [], []
        for key, record in new_sets.items():
            before = present.get(key)
            if before is None or not _is_equal(record, before):
                changes.append(Change("added" if before is None else "replaced", *key))
                patches.append(_replacement(record))
        for key in sorted(_own_keys(present) - new_sets.keys()):
            changes.append(Change("removed", *key))
            patches.append({"name": key[0], "type": key[1], "changetype": "DELETE"})
        if patches:
            self._call("PATCH", path, {"rrsets": patches})
        return changes

    def _call(self, method: str, path: str, body: object = None) -> Any:
        # PowerDNS is in the operator's own network: http_proxy is not used.
        opener = build_opener(ProxyHandler({}))
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": self._api_key, "Content-Type": "application/json"}
        url = f"{self._place}{self._path}{path}"  # http or https, as ``__init__`` has checked
        request = Request(url, data, headers, method=method)  # noqa: S310
        try:
            with opener.open(request, timeout=TIMEOUT_S) as response:
                content = response.read(RESPONSE_MAX_BYTES)
                return json.loads(content) if content else None
        except HTTPError as exc:
            with exc:
                raise _error_of(exc, self._place) from exc
        except ValueError as exc:
            raise PowerDnsError(f"{self._place} is not PowerDNS's API: {exc}") from exc
        except (OSError, HTTPException) as exc:
            cause = exc.reason if isinstance(exc, URLError) else exc
            raise PowerDnsError(
                f"no PowerDNS answers at {self._place} ({cause}): set webserver=yes and api=yes in"
                " pdns.conf, and webserver-allow-from to this machine"
            ) from exc


def _error_of(exc: HTTPError, place: str) -> PowerDnsError:
    if exc.code in {401, 403}:
        return PowerDnsError(
            f"PowerDNS at {place} refuses the key ({exc.code}): put the value of api-key in"
            " pdns.conf into the file of --api-key-file; or webserver-allow-from does not have"
            " this machine's address"
        )
    try:
        document = json.loads(exc.read(RESPONSE_MAX_BYTES))
        reason = "; ".join([str(document["error"]), *map(str, document.get("errors", ()))])
    except (KeyError, TypeError, ValueError):
        reason = exc.reason or "without a reason"
    if "LUA" in reason:
        reason += "; set enable-lua-records=yes in pdns.conf"
    return PowerDnsError(f"PowerDNS at {place} answered {exc.code}: {reason}")


_Key = tuple[str, str]
_Present = Mapping[_Key, Mapping[str, Any]]


def _by_key(sets: Iterable[Mapping[str, Any]]) -> dict[_Key, Mapping[str, Any]]:
    return {(str(one["name"]).lower(), str(one["type"])): one for one in sets}


def _contents(record_set: Mapping[str, Any]) -> list[str]:
    return [str(record["content"]) for record in record_set["records"]]


def _is_equal(record: RecordSet, present: Mapping[str, Any]) -> bool:
    is_same = sorted(_contents(present)) == sorted(record.contents)
    return is_same and present["ttl"] == record.ttl_s


def _own_keys(present: _Present) -> set[_Key]:
    """The record sets that an earlier push has made."""
    own: set[_Key] = set()
    for (name, kind), record_set in present.items():
        contents = _contents(record_set)
        if kind == "LUA" and all(map(is_own_record, contents)):
            own.add((name, kind))
        elif kind == "TXT" and name.startswith(f"{REGISTRY_LABEL}."):
            own.add((name, kind))
            alias = name.removeprefix(f"{REGISTRY_LABEL}.")
            names = {one for content in contents for one in registered_names(alias, content)}
            own |= {key for key in present if key[0] in names and key[1] in _TYPES}
    return own


def _check_conflicts(zone: str, new_sets: Mapping[_Key, RecordSet], present: _Present) -> None:
    """Raises PowerDnsError where the operator has other records at a name."""
    own = _own_keys(present)
    names = {name for name, kind in new_sets if kind == "LUA"}
    others = sorted(
        (name, kind)
        for name, kind in present.keys() - own
        if (name in names and kind in {"A", "AAAA", "CNAME", "LUA"})
        or (name, kind) in new_sets
        or (kind == "CNAME" and any(name == name_of_set for name_of_set, _kind in new_sets))
    )
    if others:
        listed = ", ".join(f"{name.rstrip('.')} {kind}" for name, kind in others)
        raise PowerDnsError(
            f"the zone {zone} has other records at these names: {listed}; remove them, and push"
            " again"
        )


def _replacement(record: RecordSet) -> dict[str, Any]:
    return {
        "name": record.name,
        "type": record.type,
        "ttl": record.ttl_s,
        "changetype": "REPLACE",
        "records": [{"content": content, "disabled": False} for content in record.contents],
    }


def zone_for(alias: str, zones: Iterable[str]) -> str | None:
    """The closest of the zones that contains an alias."""
    name = alias.removeprefix("*.")
    matches = [zone for zone in zones if is_within(name, zone)]
    return max(matches, key=len, default=None)


def query(host: str, port: int, name: str, record_type: str) -> bool:
    """Asks a DNS server for a name once; whether it has answered with records.

    Raises PowerDnsError if it does not answer at all.
    """
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = struct.pack("!6H", number, _RECURSION_DESIRED, 1, 0, 0, 0)
    message = head + labels + b"\0" + struct.pack("!2H", _TYPES[record_type], _INTERNET)
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as client:
            client.settimeout(QUERY_TIMEOUT_S)
            client.connect(address)
            client.send(message)
            while True:
                answer = client.recv(65_535)
                if len(answer) >= len(head) and answer[:2] == message[:2]:
                    break
    except OSError as exc:
        raise PowerDnsError(
            f"the DNS server {host} port {port} does not answer ({exc}): give its address with"
            " --dns HOST:PORT"
        ) from exc
    _number, flags, _questions, answers, _authority, _more = struct.unpack("!6H", answer[:12])
    return not flags & 0xF and answers > 0
