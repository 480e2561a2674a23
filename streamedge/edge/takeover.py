"""What of a newly read config a running edge can take over, and what has to wait for a restart.

Owns the list of keys that are read at the start alone: they size things, or are bound or opened
once. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from streamedge.config.schema import Config, Section
from streamedge.edge.composition import writes_back

# Keys of these tables that are read at the start alone; all other keys of a config are live.
_AT_START: Mapping[str, frozenset[str]] = {
    "edge": frozenset({"name", "cache", "workers", "log"}),
    "listen": frozenset({"http", "https", "rtmp", "admin", "proxies", "proxy_protocol"}),
    "limits": frozenset(
        {
            "api_body",
            "http_connections",
            "invalidations",
            "log_buffer",
            "media_index",
            "moov",
            "open_extents",
            "origin_retries",
            "quick_abort",
            "records",
            "rtmp_connections",
            "signature",
            "titles",
            "write_queue",
        }
    ),
}
_TABLES = ("edge", "listen", "limits", "countries", "api")


@dataclass(frozen=True, slots=True)
class Takeover:
    """``config`` is what is in force from now on: the one wanted, but for ``needs_restart``.

    ``changed`` and ``needs_restart`` name keys, such as "limits.url", "origins.main" or
    "distributions.EWEB".
    """

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def take_over(started: Config, running: Config, wanted: Config) -> Takeover:
    """What becomes of ``wanted``, in an edge that ``started`` with one config and has another."""
    needs_restart: list[str] = []
    tables: dict[str, Section] = {}
    for name, keys in _AT_START.items():
        said, begun = getattr(wanted, name), getattr(started, name)
        kept = {key: getattr(begun, key) for key in sorted(keys)}
        needs_restart += [f"{name}.{key}" for key in kept if getattr(said, key) != kept[key]]
        tables[name] = said.model_copy(update=kept)
    if writes_back(wanted) and not writes_back(started):
        # Who writes back has a journal from the start; until then such writes go through.
        needs_restart += [
            f"distributions.{declared.id}.write"
            for declared in wanted.distributions
            if writes_back(wanted.model_copy(update={"distributions": (declared,)}))
        ]
    config = wanted.model_copy(update=tables)
    return Takeover(config, tuple(changes(running, config)), tuple(needs_restart))


def changes(before: Config, after: Config) -> Iterator[str]:
    """The keys that two configs differ in, in the order of the file's tables."""
    for name in Config.model_fields:
        one, other = getattr(before, name), getattr(after, name)
        if one == other:
            continue
        if name in _TABLES:
            yield from _keys_changed(name, one, other)
        elif name == "certificates":
            yield name
        else:
            if name == "distributions":
                one, other = ({each.id: each for each in all_} for all_ in (one, other))
            named = dict.fromkeys((*one, *other))
            found = [f"{name}.{key}" for key in named if one.get(key) != other.get(key)]
            yield from found or [name]  # the order alone counts too


def _keys_changed(name: str, before: Section, after: Section) -> Iterator[str]:
    for key in type(before).model_fields:
        if getattr(before, key) != getattr(after, key):
            yield f"{name}.{key}"
