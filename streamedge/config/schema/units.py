"""The notation of sizes, durations, addresses, networks and paths: parsers and formatters.

A parser takes any TOML value and raises ``ValueError`` with the expected form, an example and the
actual value. The limits of a key are in the schema. Pure.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

IpNetwork = IPv4Network | IPv6Network

SIZE_LIMIT_BYTES = 1 << 50
DURATION_LIMIT_S = 100 * 365 * 86_400  # a hundred years, CloudFront's own limit of a TTL
PORT_LIMIT = 65_535
HOST_LIMIT_CHARACTERS = 253
UNIX_PREFIX = "unix:"  # before the path of a Unix socket, in place of an address
QUOTE_LIMIT_CHARACTERS = 48
_ESCAPED_LIMIT_CHARACTERS = 4 * QUOTE_LIMIT_CHARACTERS  # a character may need twelve

_SIZE_UNITS = {
    "PiB": 1 << 50,
    "TiB": 1 << 40,
    "GiB": 1 << 30,
    "MiB": 1 << 20,
    "KiB": 1 << 10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "KB": 10**3,
    "B": 1,
}
_DURATION_UNITS = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_SIZE = re.compile(r"([0-9]{1,19}) ?([A-Za-z]{1,3})")
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([a-z]{1,2})")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):([0-9]{1,5})")

_SIZE_EXPECTED = 'expected a size such as "20GiB", "500MB", "64KiB" or a whole number of bytes'
_DURATION_EXPECTED = (
    'expected a duration such as "24h", "90s", "250ms", "1d" or a number of seconds'
)
_EVERY_IPV4 = '":8080" (every IPv4 address)'
_ADDRESS_EXPECTED = f'expected an address such as "127.0.0.1:8080", "[::1]:8080" or {_EVERY_IPV4}'
_NETWORK_EXPECTED = (
    'expected a network or an address such as "10.0.0.0/8", "fd00::/8" or "10.1.2.3"'
)
_IP_ADDRESS_EXPECTED = 'expected an IP address such as "192.0.2.10" or "2001:db8::10"'
_LOCATION_EXPECTED = "expected [latitude, longitude] in degrees, such as [50.11, 8.68]"
_PATH_EXPECTED = 'expected a path such as "var/cache"'


def parse_size_bytes(value: object) -> int:
    """The bytes of ``value``: ``"20GiB"`` (powers of 1024), ``"500MB"`` (of 1000) or an int."""
    size_bytes: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size_bytes = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        unit = _SIZE_UNITS.get(match[2])
        size_bytes = None if unit is None else int(match[1]) * unit
    if size_bytes is None:
        raise ValueError(f"{_SIZE_EXPECTED}, found {name_type(value)}")
    if not 0 <= size_bytes <= SIZE_LIMIT_BYTES:
        raise ValueError(
            f"expected a size from 0 to {format_size_bytes(SIZE_LIMIT_BYTES)},"
            f" found {name_type(value)}"
        )
    return size_bytes


def parse_duration_s(value: object) -> float:
    """The seconds of ``value``: ``"24h"``, ``"1.5s"``, ``"250ms"``, or a number of seconds."""
    duration_s: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Compared first: NaN is not in the range, and no float holds the largest integers.
        duration_s = float(value) if 0 <= value <= DURATION_LIMIT_S else -1.0
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        unit = _DURATION_UNITS.get(match[2])
        duration_s = None if unit is None else float(Decimal(match[1]) * unit)
    if duration_s is None:
        raise ValueError(f"{_DURATION_EXPECTED}, found {name_type(value)}")
    if not 0 <= duration_s <= DURATION_LIMIT_S:
        raise ValueError(
            f"expected a duration from 0 to {format_duration_s(DURATION_LIMIT_S)},"
            f" found {name_type(value)}"
        )
    return duration_s


def parse_address(value: object) -> tuple[str, int]:
    """Host and port of ``"127.0.0.1:8080"``, ``"[::1]:8080"``, ``"localhost:8080"`` or ``":8080"``.

    The host has no brackets and is in its shortest form; ``":8080"`` is ``0.0.0.0``. Port 0
    lets the system choose. A tuple (host, port) is accepted too, for configs made in code.
    """
    if isinstance(value, tuple) and len(value) == 2:
        host, port = value
        if isinstance(host, str) and isinstance(port, int):
            return parse_address(format_address((host, port)))
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_ADDRESS_EXPECTED}, found {name_type(value)}")
    port = int(match[2])
    if port > PORT_LIMIT:
        raise ValueError(f"expected a port from 0 to {PORT_LIMIT}, found {port}")
    try:
        return _canonical_host(match[1]), port
    except ValueError as exc:
        raise ValueError(f"{_ADDRESS_EXPECTED}, found {name_type(value)}") from exc


def parse_admin_address(value: object) -> tuple[str, int] | Path:
    """The address ``value``, or the path of ``"unix:/run/streamedge/admin.sock"``."""
    if isinstance(value, Path):
        return value
    if isinstance(value, str) and value.startswith(UNIX_PREFIX):
        path = value.removeprefix(UNIX_PREFIX)
        if not path or "\0" in path:
            raise ValueError(f'expected a path after "{UNIX_PREFIX}"')
        return Path(path)
    try:
        return parse_address(value)
    except ValueError as exc:
        raise ValueError(str(exc).replace(_EVERY_IPV4, f"{_EVERY_IPV4}, or unix:PATH")) from exc


def parse_network(value: object) -> IpNetwork:
    """The network of ``"10.0.0.0/8"``, ``"fd00::/8"`` or, of one address, ``"10.1.2.3"``."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        if not isinstance(value, str):
            raise ValueError("not text")  # noqa: TRY004  # pydantic reports ValueError only
        return ip_network(value)
    except ValueError as exc:
        text = f"{_NETWORK_EXPECTED}, found {name_type(value)}"
        if "host bits" in str(exc):
            text += ", which has bits set beyond its prefix"
        raise ValueError(text) from exc


def parse_ip_address(value: object) -> str:
    """The shortest form of the IP address ``value``."""
    try:
        if not isinstance(value, str):
            raise ValueError("not text")  # noqa: TRY004  # pydantic reports ValueError only
        return ip_address(value).compressed
    except ValueError as exc:
        raise ValueError(f"{_IP_ADDRESS_EXPECTED}, found {name_type(value)}") from exc


def parse_location(value: object) -> tuple[float, float]:
    """The latitude and longitude in degrees of ``[50.11, 8.68]``."""
    if isinstance(value, list | tuple) and len(value) == 2:
        latitude, longitude = value
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in value) and (
            -90 <= latitude <= 90 and -180 <= longitude <= 180
        ):
            return float(latitude), float(longitude)
    raise ValueError(f"{_LOCATION_EXPECTED}, found {name_type(value)}")


def parse_path(value: object) -> Path:
    """The path ``value``. An empty path is refused: it would mean the config's own folder."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{_PATH_EXPECTED}, found {name_type(value)}")  # noqa: TRY004  # pydantic's
    if not value or "\0" in value:
        raise ValueError(f"{_PATH_EXPECTED}, found one that is empty or has a NUL in it")
    return Path(value)


def format_size_bytes(size_bytes: int) -> str:
    """The shortest exact notation of ``size_bytes``, such as ``"64KiB"``; 0 is ``"0B"``."""
    exact = (
        f"{size_bytes // unit}{name}"
        for name, unit in _SIZE_UNITS.items()
        if size_bytes and size_bytes % unit == 0
    )
    return min(exact, key=len, default="0B")


def format_duration_s(duration_s: float) -> str:
    """The exact notation of ``duration_s`` in its largest whole unit, such as ``"24h"``."""
    exact = Decimal(repr(duration_s))
    if not exact:
        return "0s"
    for name, unit in _DURATION_UNITS.items():
        # 24h reads better than 1d: days are used from two days on.
        if exact % unit == 0 and (name != "d" or exact >= 2 * unit):
            return f"{exact / unit:f}".removesuffix(".0") + name
    return f"{exact.normalize():f}s"


def without_password(url: str) -> str:
    """A URL without user name and password, for operators and logs."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def format_address(address: tuple[str, int]) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def format_admin_address(address: tuple[str, int] | Path) -> str:
    """``host:port``, or ``unix:`` and the path of a Unix socket."""
    if isinstance(address, Path):
        return f"{UNIX_PREFIX}{address}"
    return format_address(address)


_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to connect to


def to_connect_to(address: tuple[str, int]) -> tuple[str, int]:
    """Where a process of this machine connects to an address that is listened on."""
    host, port = address
    return _EVERY_ADDRESS.get(host, host), port


def name_type(value: object) -> str:
    """``value`` for a message: short values as TOML, others by their kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            # The bound comes first: Python refuses to print integers of thousands of digits.
            return str(value) if abs(value) < 1e18 else "a number that is far too large"
        case str() if len(value) <= QUOTE_LIMIT_CHARACTERS:
            quoted = json.dumps(value)
            return quoted if len(quoted) <= _ESCAPED_LIMIT_CHARACTERS else kind_of(value)
        case _:
            return kind_of(value)


def kind_of(value: object) -> str:
    """TOML's name of the kind of ``value``, with its article."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _canonical_host(host: str) -> str:
    """Raises ValueError if it is neither an IP address nor a host name."""
    if not host:
        return "0.0.0.0"  # noqa: S104  # the notation's own meaning; no default uses it
    if host.startswith("["):
        address = ip_address(host[1:-1])
        if address.version != 6:
            raise ValueError("only an IPv6 address has brackets")
        return str(address)
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdecimal():
        return str(ip_address(host))
    if not all(labels) or len(host) > HOST_LIMIT_CHARACTERS:
        raise ValueError("not a host name")
    return host.lower()
