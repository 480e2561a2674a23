"""Which distribution a host name belongs to, and which asset a name in it is.

Pure lookups over what the config declares; both protocols use them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.control.invalidations import target_of
from streamedge.keys import join_key
from streamedge.origin import Origin, Upstream
from streamedge.origin.names import site_path
from streamedge.origin.s3.protocol import S3Relay
from streamedge.origin.writing import WritableOrigin


@dataclass(frozen=True, slots=True)
class OriginBinding:
    """An origin as distributions use it.

    ``identity`` says what it is (a bucket at an endpoint, a URL, a folder), so that what is cached
    of it is found again after it was renamed, and never taken for another's. ``is_site``: any
    request may be sent to it, and its answers may be anything; else it has objects alone.
    ``bucket``: its name at S3, which clients of that protocol put before the object's, and
    ``relay`` makes their calls.
    ``first`` is where a group's writes go, ``groups`` are the identities of those that it is in.
    """

    name: str
    identity: str
    origin: Origin
    upstream: Upstream
    is_site: bool = False
    sends_viewer_host: bool = False
    writer: WritableOrigin | None = None
    relay: S3Relay | None = None
    bucket: str = ""
    first: OriginBinding | None = None
    groups: tuple[str, ...] = ()

    def place_of(self, name: str) -> str:
        """What tells an object or resource from the others of the origin, in keys."""
        return site_path(name) if self.is_site else name

    @property
    def written(self) -> OriginBinding:
        """The one origin whose objects a write through here changes."""
        return self.first or self

    def keys_written(self, *parts: str) -> tuple[str, ...]:
        """The keys of all assets that a write changes; ``parts`` are what follows the identity."""
        written = self.written
        return tuple(join_key(identity, *parts) for identity in (written.identity, *written.groups))


@dataclass(frozen=True, slots=True)
class Distribution:
    """What both kinds of distribution have. ``aliases`` are host names, "*.suffix" or "*"."""

    id: str
    aliases: tuple[str, ...]
    binding: OriginBinding
    rules: TtlRules

    def asset(self, name: str) -> Asset:
        """The asset that an object's name means here."""
        return Asset(
            key=join_key(self.binding.identity, self.binding.place_of(name)),
            name=name,
            origin=self.binding.origin,
            origin_name=self.binding.name,
            rules=self.rules,
            scope=self.id,
            target=target_of(name),
        )


class HasAliases(Protocol):
    """Anything that is found by host name."""

    @property
    def aliases(self) -> tuple[str, ...]: ...


Found = TypeVar("Found", bound=HasAliases)


class HostTable(Generic[Found]):
    """Finds by host name: an exact alias first, then the longest "*.suffix", then "*"."""

    def __init__(self, entries: Iterable[Found]) -> None:
        self._exact: dict[str, list[Found]] = {}
        self._suffixes: dict[str, list[Found]] = {}
        self._any: list[Found] = []
        for entry in entries:
            for alias in entry.aliases:
                spelled = alias.lower()
                if spelled == "*":
                    self._any.append(entry)
                elif spelled.startswith("*."):
                    self._suffixes.setdefault(spelled[1:], []).append(entry)
                else:
                    self._exact.setdefault(spelled, []).append(entry)

    def find(self, host: str) -> list[Found]:
        """Everything that claims ``host`` (a port is ignored), the closest claim first."""
        name = host_name(host)
        found = list(self._exact.get(name, ()))
        at = name.find(".")
        while at >= 0:
            found += self._suffixes.get(name[at:], ())
            at = name.find(".", at + 1)
        return found + self._any


# A name or address, and a port. A host with a "/" would begin the path: of a signed URL, too.
_HOST = re.compile(r"[A-Za-z0-9._~-]+(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")


def is_host(host: str) -> bool:
    """Whether a Host header's value is a name or an address, with a port or without."""
    return _HOST.fullmatch(host) is not None


def host_name(host: str) -> str:
    """A Host header's or tcUrl's host in lower case, without port, dot at the end and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")
