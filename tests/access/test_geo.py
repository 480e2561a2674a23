"""Countries by address: both schemas, both IP versions, and files that are replaced or damaged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.access.geo import CountryDatabase, CountryDatabaseChange, CountryDatabaseError
from tests.support.mmdb_file import MARKER, city, country, mmdb

# Networks for documentation: RFC 5737, RFC 3849.
GERMAN, FRENCH, UNLISTED = "192.0.2.0/24", "198.51.100.0/25", "203.0.113.9"
GERMAN_6 = "2001:db8:1::/48"
MAXMIND = {GERMAN: country("DE"), FRENCH: country("FR"), GERMAN_6: country("DE")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "countries.mmdb"


def database_of(file: Path, data: bytes) -> CountryDatabase:
    file.write_bytes(data)
    return CountryDatabase(file)


def reload(countries: CountryDatabase) -> CountryDatabaseChange | None:
    """Checks the file twice, as a change needs; returns the second result."""
    assert countries.reload_if_changed() is None
    return countries.reload_if_changed()


@pytest.mark.parametrize("record_bits", [24, 28, 32])
def test_maxmind_schema_is_read(file: Path, record_bits: int) -> None:
    countries = database_of(file, mmdb(MAXMIND, record_bits=record_bits))

    assert countries.country("192.0.2.77") == "DE"
    assert countries.country("198.51.100.127") == "FR"
    assert countries.country("198.51.100.128") == ""
    assert countries.country("2001:db8:1:ffff::1") == "DE"
    assert countries.country("2001:db8:2::1") == ""
    assert countries.country(UNLISTED) == ""


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (country("DE", registered="US"), "DE"),
        (country("", registered="US"), "US"),
        (country("", registered=""), ""),
        ({"country_code": "de"}, "DE"),
        ({"country": "DE"}, "DE"),
        ({"country": "Germany", "country_code": "DE"}, "DE"),
        ("DE", "DE"),
        ({"country": "Germany"}, ""),
        ({"country": {"iso_code": 49}}, ""),
        ({"country": ["DE"]}, ""),
        ("D1", ""),
        ("ÄÖ", ""),
        (49, ""),
        ([], ""),
    ],
)
def test_record_gives_a_country_code(file: Path, record: object, code: str) -> None:
    countries = database_of(file, mmdb({GERMAN: record, FRENCH: "FR"}))

    assert countries.country("192.0.2.1") == code
    assert countries.country("198.51.100.1") == "FR"


def test_narrowest_network_is_used(file: Path) -> None:
    countries = database_of(
        file, mmdb({"192.0.2.128/25": "AT", GERMAN: "DE", "192.0.2.200/32": "CH"})
    )

    assert [countries.country(f"192.0.2.{last}") for last in (1, 129, 200)] == ["DE", "AT", "CH"]


def test_file_for_ipv4_has_no_ipv6_countries(file: Path) -> None:
    countries = database_of(file, mmdb({GERMAN: "DE"}, ip_version=4))

    assert countries.country("192.0.2.1") == "DE"
    assert countries.country("::ffff:192.0.2.1") == "DE"
    assert countries.country("2001:db8:1::1") == ""


@pytest.mark.parametrize("address", ["", "localhost", "192.0.2", "192.0.2.1:80", "1" * 5000, "\0"])
def test_invalid_address_has_no_country(file: Path, address: str) -> None:
    assert database_of(file, mmdb({"0.0.0.0/1": "DE"})).country(address) == ""


def test_missing_database_gives_no_countries() -> None:
    countries = CountryDatabase(None)

    assert countries.country("192.0.2.1") == ""
    assert countries.reload_if_changed() is None


def test_replaced_file_is_loaded(file: Path) -> None:
    countries = database_of(file, mmdb(MAXMIND))
    assert countries.reload_if_changed() is None
    new_file = file.with_suffix(".new")
    new_file.write_bytes(mmdb({GERMAN: "AT"}, built=1_800_000_000))
    os.replace(new_file, file)

    assert countries.country("192.0.2.1") == "DE"
    assert reload(countries) == CountryDatabaseChange(
        file, datetime.fromtimestamp(1_800_000_000, UTC)
    )
    assert countries.country("192.0.2.1") == "AT"
    assert countries.country("198.51.100.1") == ""
    assert countries.reload_if_changed() is None


def test_use_switches_to_another_database(file: Path, tmp_path: Path) -> None:
    countries = database_of(file, mmdb(MAXMIND))
    other = tmp_path / "other.mmdb"

    countries.use(database_of(other, mmdb({GERMAN: "AT"})))
    file.write_bytes(b"")

    assert countries.country("192.0.2.1") == "AT"
    assert countries.reload_if_changed() is None
    assert countries.reload_if_changed() is None, "the previous file is not checked"
    other.write_bytes(mmdb({GERMAN: "CH"}))
    assert reload(countries) is not None
    assert countries.country("192.0.2.1") == "CH"
    countries.use(CountryDatabase(None))
    assert countries.country("192.0.2.1") == ""


def test_file_is_not_read_while_it_is_written(file: Path) -> None:
    countries = database_of(file, mmdb(MAXMIND))
    data = mmdb({GERMAN: "AT"})

    for size in (0, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        assert countries.reload_if_changed() is None
        assert countries.country("198.51.100.1") == "FR"
    file.write_bytes(data)
    change = reload(countries)

    assert change is not None
    assert change.refused is None
    assert countries.country("192.0.2.1") == "AT"


def test_file_truncated_in_place_is_refused(file: Path) -> None:
    countries = database_of(file, mmdb(MAXMIND))
    file.write_bytes(b"")

    change = reload(countries)

    assert change is not None
    assert change.refused is not None
    assert change.refused.startswith(f"{file}: ")
    assert countries.country("192.0.2.1") == "DE"
    assert countries.country("198.51.100.9") == "FR"
    assert countries.reload_if_changed() is None, "it is refused once"


def test_removed_file_is_refused_and_loaded_when_it_is_back(file: Path) -> None:
    countries = database_of(file, mmdb(MAXMIND))
    moved = file.with_suffix(".aside")
    os.replace(file, moved)

    removed = reload(countries)
    assert removed == CountryDatabaseChange(file, refused=f"{file}: No such file or directory")
    assert countries.country("192.0.2.1") == "DE"

    os.replace(moved, file)
    restored = reload(countries)
    assert restored is not None
    assert restored.refused is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "valid MaxMind DB"),
        (b"<html>404</html>", "valid MaxMind DB"),
        (MARKER, "bad data"),
        (mmdb(MAXMIND)[:-200], "valid MaxMind DB"),
        (mmdb(MAXMIND)[300:], "tree"),
        (mmdb({}), "no networks"),
        (mmdb({GERMAN: {"autonomous_system_number": 64496}}), "have no countries"),
        (mmdb(MAXMIND).replace(b"node_count", b"node_cuont"), "node_c"),
        (mmdb(MAXMIND).replace(b"\x42DE", b"\x42\xff\xff"), "codec"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_file_is_refused(file: Path, data: bytes, reason: str) -> None:
    file.write_bytes(data)

    with pytest.raises(CountryDatabaseError, match=str(file)) as caught:
        CountryDatabase(file)

    assert reason in str(caught.value)


def test_record_outside_the_file_is_refused(file: Path) -> None:
    data = bytearray(mmdb(MAXMIND, record_bits=32))
    nodes = data.index(bytes(16)) // 8
    empty = nodes.to_bytes(4)
    at = next(at for at in range(0, nodes * 8, 4) if data[at : at + 4] == empty)
    data[at : at + 4] = (nodes + len(data)).to_bytes(4)
    file.write_bytes(data)

    with pytest.raises(CountryDatabaseError, match="outside the data"):
        CountryDatabase(file)


def test_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(CountryDatabaseError, match="No such file"):
        CountryDatabase(file)


INTACT = mmdb(MAXMIND)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(INTACT) - 1), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, len(INTACT)) | st.none(),
)
def test_any_damage_is_refused_or_harmless(
    file: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(INTACT)
    for at, value in changes:
        data[at] = value
    file.write_bytes(data[:cut])
    try:
        countries = CountryDatabase(file)
    except CountryDatabaseError:
        return
    for address in ("192.0.2.1", "198.51.100.1", "2001:db8:1::1", "255.255.255.255", "::"):
        code = countries.country(address)
        assert code == "" or (len(code) == 2 and code.isupper())


@pytest.mark.parametrize(
    ("record", "location"),
    [
        (country("DE") | city(50.11, 8.68), (50.11, 8.68)),
        ({"country_code": "NZ", "latitude": -41.29, "longitude": 174.78}, (-41.29, 174.78)),
        ({"country_code": "NZ", "latitude": "-41.29", "longitude": "174.78"}, (-41.29, 174.78)),
        (country("DE"), None),
        (country("DE") | city(95.0, 8.68), None),
        (country("DE") | city(50.0, float("nan")), None),
        (country("DE") | {"location": {"latitude": 50.0}}, None),
        (country("DE") | {"location": "Frankfurt"}, None),
        ({"country_code": "DE", "latitude": "north", "longitude": "east"}, None),
    ],
)
def test_place_of_a_city_database_is_read(
    file: Path, record: dict[str, object], location: tuple[float, float] | None
) -> None:
    countries = database_of(file, mmdb({GERMAN: record, GERMAN_6: record}))

    assert countries.location("192.0.2.77") == location
    assert countries.location("2001:db8:1::7") == location
    assert countries.location(UNLISTED) is None
    assert countries.location("no address") is None


def test_file_of_places_alone_is_used_but_never_replaces_countries(file: Path) -> None:
    countries = database_of(file, mmdb({GERMAN: city(50.0, 8.0)}))
    assert countries.location("192.0.2.77") == (50.0, 8.0)
    assert countries.country("192.0.2.77") == ""

    file.write_bytes(mmdb({GERMAN: country("DE")}))
    assert reload(countries) is not None
    file.write_bytes(mmdb({GERMAN: city(51.0, 9.0)}, built=1_800_000_000))
    change = reload(countries)
    assert change is not None
    assert change.refused == f"{file}: it has no countries"
    assert countries.country("192.0.2.77") == "DE"


def test_places_follow_a_new_file(file: Path, tmp_path: Path) -> None:
    countries = database_of(file, mmdb({GERMAN: country("DE") | city(50.0, 8.0)}))
    assert countries.location("192.0.2.77") == (50.0, 8.0)

    file.write_bytes(mmdb({GERMAN: country("DE") | city(51.0, 9.0)}, built=1_800_000_000))
    reload(countries)
    assert countries.location("192.0.2.77") == (51.0, 9.0)

    other = tmp_path / "other.mmdb"
    other.write_bytes(mmdb({GERMAN: country("DE")}))
    countries.use(CountryDatabase(other))
    assert countries.location("192.0.2.77") is None
    assert CountryDatabase(None).location("192.0.2.77") is None
