"""Countries and places of addresses, from an MMDB file that may be replaced at any time.

A country database has no places, a city database has both. It reads MaxMind's schema (GeoLite2,
GeoIP2, DB-IP) and flat ones; the format is https://maxmind.github.io/MaxMind-DB/. The file is read
whole into memory and checked before use. It is not mapped: a mapped file that is truncated would
kill the process. ``reload_if_changed`` reads a changed file; a file with faults changes nothing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.client_address import parse_address
from streamedge.errors import StreamEdgeError
from streamedge.files import file_stamp
from streamedge.fleet.nearest import Location

if TYPE_CHECKING:
    import numpy as np
    from maxminddb import Reader
    from maxminddb.reader import Metadata

FILE_BYTES_MAX = 1 << 30
LOOKUPS_MAX = 65_536  # cached results of one loaded file
CHECKED_RECORDS_MAX = 1024  # a country database has a few hundred

_SEPARATOR_BYTES = 16  # between the search tree and the data section
# Errors that the reader raises for other files and for damaged ones.
_READ_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,  # of the reader itself
    TypeError,
    ValueError,
)


class CountryDatabaseError(StreamEdgeError):
    """A file cannot be used as a country database; the message has its name and the reason."""


@dataclass(frozen=True, slots=True)
class CountryDatabaseChange:
    """Result of a check: a new file, built at ``built``, was loaded or refused for a reason."""

    database: Path
    built: datetime | None = None
    refused: str | None = None


class CountryDatabase:
    """Countries by address; without a file all are unknown. Raises CountryDatabaseError."""

    def __init__(self, database: Path | None) -> None:
        self.database = database
        self._country: Callable[[str], str] = _unknown
        self._location: Callable[[str], Location | None] = _nowhere
        self.has_countries = self.has_locations = False
        self._seen = None if database is None else file_stamp(database)
        self._checked = self._seen  # stamp of the file in use, or of a refused one
        if database is not None:
            self._use(_read(database))

    def country(self, address: str) -> str:
        """The ISO 3166-1 code of an address's country, in upper case; "" if it is unknown."""
        return self._country(address)

    def location(self, address: str) -> Location | None:
        """Where an address is used; None if it is unknown, or the file has countries only."""
        return self._location(address)

    def use(self, other: CountryDatabase) -> None:
        """Uses the data of ``other`` from now on."""
        self.database, self._country = other.database, other._country
        self._location = other._location
        self.has_countries, self.has_locations = other.has_countries, other.has_locations
        self._seen, self._checked = other._seen, other._checked

    def reload_if_changed(self) -> CountryDatabaseChange | None:
        """Reads the file if it has changed since it was read, but not since the last check.

        So a file is not read while it is being written. Returns None if there is no change. It may
        take 0.1 s, so call it in a thread.
        """
        database = self.database
        if database is None:
            return None
        stamp, previous = file_stamp(database), self._seen
        self._seen = stamp
        if stamp == self._checked or stamp != previous:
            return None
        self._checked = stamp
        try:
            loaded = _read(database)
        except CountryDatabaseError as exc:
            return CountryDatabaseChange(database, refused=str(exc))
        if self.database != database:
            return None  # ``use`` has replaced it
        if self.has_countries and not loaded.has_countries:
            # Rules by country would silently apply to no viewer.
            return CountryDatabaseChange(database, refused=f"{database}: it has no countries")
        self._use(loaded)
        return CountryDatabaseChange(database, loaded.built)

    def _use(self, loaded: _LoadedFile) -> None:
        self._country = lru_cache(LOOKUPS_MAX)(loaded.country)
        self._location = lru_cache(LOOKUPS_MAX)(loaded.location)
        self.has_countries, self.has_locations = loaded.has_countries, loaded.has_locations


@dataclass(frozen=True, slots=True)
class _LoadedFile:
    """The content of a file."""

    reader: Reader
    built: datetime
    has_countries: bool
    has_locations: bool

    def country(self, address: str) -> str:
        return _country_of(self._record(address))

    def location(self, address: str) -> Location | None:
        return _location_of(self._record(address))

    def _record(self, address: str) -> object:
        parsed = parse_address(address)
        if parsed is None:
            return None
        try:
            return self.reader.get(parsed)
        except _READ_ERRORS:
            return None  # IPv6 in a file for IPv4 only, or damage that the check did not see


def _unknown(_address: str) -> str:
    return ""


def _nowhere(_address: str) -> Location | None:
    return None


def _read(path: Path) -> _LoadedFile:
    """Reads and checks a file. Raises CountryDatabaseError."""
    from maxminddb import MODE_FD, Reader  # noqa: PLC0415  # most edges have no database

    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > FILE_BYTES_MAX:
                raise CountryDatabaseError(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB")
            data = file.read(size_bytes)
    except OSError as exc:
        raise CountryDatabaseError(f"{path}: {exc.strerror or exc}") from exc
    try:
        reader = Reader(io.BytesIO(data), MODE_FD)
        metadata = reader.metadata()
        has_countries, has_locations = _check(data, metadata)
        built = datetime.fromtimestamp(metadata.build_epoch, UTC)
        return _LoadedFile(reader, built, has_countries, has_locations)
    except _READ_ERRORS as exc:
        raise CountryDatabaseError(f"{path}: {exc}") from exc


def _check(data: bytes, metadata: Metadata) -> tuple[bool, bool]:
    """Checks the whole search tree and a sample of records: has it countries, and locations?

    Raises any of ``_READ_ERRORS``.
    """
    from maxminddb.decoder import Decoder  # noqa: PLC0415

    if metadata.ip_version not in {4, 6}:
        raise ValueError(f"a database of IP version {metadata.ip_version}")
    nodes, tree_bytes = metadata.node_count, metadata.search_tree_size
    values = _tree_values(data[:tree_bytes], metadata.record_size)
    pointers = values[
        values > nodes
    ]  # lower values are nodes; an equal one means that there is no record
    if not len(pointers):
        raise ValueError("it has no networks")
    first, last = int(pointers.min()), int(pointers.max())
    if first < nodes + _SEPARATOR_BYTES or last - nodes + tree_bytes >= len(data):
        raise ValueError("its search tree points outside the data")
    decoder = Decoder(data, tree_bytes + _SEPARATOR_BYTES)
    countries = locations = 0
    for pointer in _sample(pointers):
        record, _end = decoder.decode(pointer - nodes + tree_bytes)
        countries += bool(_country_of(record))
        locations += _location_of(record) is not None
    if not countries and not locations:
        raise ValueError("its records have no countries")
    return countries > 0, locations > 0


def _tree_values(tree: bytes, record_bits: int) -> np.ndarray:
    """The values of all records of a search tree, 24, 28 or 32 bits each."""
    import numpy as np  # noqa: PLC0415

    if record_bits == 32:
        return np.frombuffer(tree, ">u4")
    octets = np.frombuffer(tree, np.uint8).astype(np.uint32)
    if record_bits == 24:
        octets = octets.reshape(-1, 3)
        return octets[:, 0] << 16 | octets[:, 1] << 8 | octets[:, 2]
    # Two records of 28 bits share the octet between them: its high half is the left one's top.
    octets = octets.reshape(-1, 7)
    left = (octets[:, 3] & 0xF0) << 20 | octets[:, 0] << 16 | octets[:, 1] << 8 | octets[:, 2]
    right = (octets[:, 3] & 0x0F) << 24 | octets[:, 4] << 16 | octets[:, 5] << 8 | octets[:, 6]
    return np.concatenate((left, right))


def _sample(pointers: np.ndarray) -> list[int]:
    """Up to ``CHECKED_RECORDS_MAX`` different pointers, spread over the file."""
    import numpy as np  # noqa: PLC0415

    unique = np.unique(pointers)
    step = -(-len(unique) // CHECKED_RECORDS_MAX)
    return [int(pointer) for pointer in unique[::step]]


def _country_of(record: object) -> str:
    """The country in a record, or "".

    MaxMind's ``country`` is where the address is used, ``registered_country`` where its network is
    registered; some networks have only the latter.
    """
    if isinstance(record, dict):
        for name in ("country_code", "country", "registered_country"):
            value = record.get(name)
            code = _code(value.get("iso_code") if isinstance(value, dict) else value)
            if code:
                return code
        return ""
    return _code(record)


def _location_of(record: object) -> Location | None:
    """The latitude and longitude in a record: of its ``location``, or of the record itself."""
    if not isinstance(record, dict):
        return None
    place = record.get("location", record)
    if not isinstance(place, dict):
        return None
    try:
        latitude, longitude = float(place["latitude"]), float(place["longitude"])
    except (KeyError, TypeError, ValueError):
        return None
    is_on_earth = -90 <= latitude <= 90 and -180 <= longitude <= 180
    return (latitude, longitude) if is_on_earth else None


def _code(value: object) -> str:
    is_code = isinstance(value, str) and len(value) == 2 and value.isascii() and value.isalpha()
    return str(value).upper() if is_code else ""
