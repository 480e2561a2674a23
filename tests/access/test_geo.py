"""Countries by address: both schemas, both IP versions, and files that are replaced or damaged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.access.geo import CountryDatabase, CountryDatabaseChange, CountryDatabaseError
from tests.support.mmdb_file import MARKER, country, mmdb

# Networks for documentation: RFC 5737, RFC 3849.
GERMAN, FRENCH, NOBODYS = "192.0.2.0/24", "198.51.100.0/25", "203.0.113.9"
GERMAN_6 = "2001:db8:1::/48"
MAXMIND = {GERMAN: country("DE"), FRENCH: country("FR"), GERMAN_6: country("DE")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "countries.mmdb"


def of(file: Path, data: bytes) -> CountryDatabase:
    file.write_bytes(data)
    return CountryDatabase(file)


def settle(countries: CountryDatabase) -> CountryDatabaseChange | None:
    """What is found once the file has been seen twice in the same state."""
    assert countries.reload_if_changed() is None
    return countries.reload_if_changed()


@pytest.mark.parametrize("record_bits", [24, 28, 32])
def test_maxminds_schema(file: Path, record_bits: int) -> None:
    countries = of(file, mmdb(MAXMIND, record_bits=record_bits))

    assert countries.country("192.0.2.77") == "DE"
    assert countries.country("198.51.100.127") == "FR"
    assert countries.country("198.51.100.128") == ""
    assert countries.country("2001:db8:1:ffff::1") == "DE"
    assert countries.country("2001:db8:2::1") == ""
    assert countries.country(NOBODYS) == ""


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
def test_what_a_record_tells(file: Path, record: object, code: str) -> None:
    countries = of(file, mmdb({GERMAN: record, FRENCH: "FR"}))

    assert countries.country("192.0.2.1") == code
    assert countries.country("198.51.100.1") == "FR"


def test_a_narrower_network_counts(file: Path) -> None:
    countries = of(file, mmdb({"192.0.2.128/25": "AT", GERMAN: "DE", "192.0.2.200/32": "CH"}))

    assert [countries.country(f"192.0.2.{last}") for last in (1, 129, 200)] == ["DE", "AT", "CH"]


def test_a_file_of_ipv4_alone_knows_no_ipv6(file: Path) -> None:
    countries = of(file, mmdb({GERMAN: "DE"}, ip_version=4))

    assert countries.country("192.0.2.1") == "DE"
    assert countries.country("::ffff:192.0.2.1") == "DE"
    assert countries.country("2001:db8:1::1") == ""


@pytest.mark.parametrize("address", ["", "localhost", "192.0.2", "192.0.2.1:80", "1" * 5000, "\0"])
def test_what_is_no_address_is_nowhere(file: Path, address: str) -> None:
    assert of(file, mmdb({"0.0.0.0/1": "DE"})).country(address) == ""


def test_without_a_database_nothing_is_known() -> None:
    countries = CountryDatabase(None)

    assert countries.country("192.0.2.1") == ""
    assert countries.reload_if_changed() is None


def test_a_replaced_file_is_used(file: Path) -> None:
    countries = of(file, mmdb(MAXMIND))
    assert countries.reload_if_changed() is None
    successor = file.with_suffix(".new")
    successor.write_bytes(mmdb({GERMAN: "AT"}, built=1_800_000_000))
    os.replace(successor, file)

    assert countries.country("192.0.2.1") == "DE"
    assert settle(countries) == CountryDatabaseChange(
        file, datetime.fromtimestamp(1_800_000_000, UTC)
    )
    assert countries.country("192.0.2.1") == "AT"
    assert countries.country("198.51.100.1") == ""
    assert countries.reload_if_changed() is None


def test_another_database_takes_over(file: Path, tmp_path: Path) -> None:
    countries = of(file, mmdb(MAXMIND))
    other = tmp_path / "other.mmdb"

    countries.use(of(other, mmdb({GERMAN: "AT"})))
    file.write_bytes(b"")

    assert countries.country("192.0.2.1") == "AT"
    assert countries.reload_if_changed() is None
    assert countries.reload_if_changed() is None, "the file before is not looked at"
    other.write_bytes(mmdb({GERMAN: "CH"}))
    assert settle(countries) is not None
    assert countries.country("192.0.2.1") == "CH"
    countries.use(CountryDatabase(None))
    assert countries.country("192.0.2.1") == ""


def test_a_file_is_not_read_while_it_is_written(file: Path) -> None:
    countries = of(file, mmdb(MAXMIND))
    data = mmdb({GERMAN: "AT"})

    for size in (0, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        assert countries.reload_if_changed() is None
        assert countries.country("198.51.100.1") == "FR"
    file.write_bytes(data)
    change = settle(countries)

    assert change is not None
    assert change.refused is None
    assert countries.country("192.0.2.1") == "AT"


def test_a_file_that_is_cut_in_place_changes_nothing(file: Path) -> None:
    countries = of(file, mmdb(MAXMIND))
    file.write_bytes(b"")

    change = settle(countries)

    assert change is not None
    assert change.refused is not None
    assert change.refused.startswith(f"{file}: ")
    assert countries.country("192.0.2.1") == "DE"
    assert countries.country("198.51.100.9") == "FR"
    assert countries.reload_if_changed() is None, "it is refused once"


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(file: Path) -> None:
    countries = of(file, mmdb(MAXMIND))
    aside = file.with_suffix(".aside")
    os.replace(file, aside)

    gone = settle(countries)
    assert gone == CountryDatabaseChange(file, refused=f"{file}: No such file or directory")
    assert countries.country("192.0.2.1") == "DE"

    os.replace(aside, file)
    back = settle(countries)
    assert back is not None
    assert back.refused is None


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
def test_a_damaged_file_is_refused(file: Path, data: bytes, reason: str) -> None:
    file.write_bytes(data)

    with pytest.raises(CountryDatabaseError, match=str(file)) as caught:
        CountryDatabase(file)

    assert reason in str(caught.value)


def test_a_record_outside_the_file_is_refused(file: Path) -> None:
    data = bytearray(mmdb(MAXMIND, record_bits=32))
    nodes = data.index(bytes(16)) // 8
    empty = nodes.to_bytes(4)
    at = next(at for at in range(0, nodes * 8, 4) if data[at : at + 4] == empty)
    data[at : at + 4] = (nodes + len(data)).to_bytes(4)
    file.write_bytes(data)

    with pytest.raises(CountryDatabaseError, match="outside the data"):
        CountryDatabase(file)


def test_no_file_is_refused(file: Path) -> None:
    with pytest.raises(CountryDatabaseError, match="No such file"):
        CountryDatabase(file)


WHOLE = mmdb(MAXMIND)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, len(WHOLE)) | st.none(),
)
def test_any_damage_is_refused_or_harmless(
    file: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(WHOLE)
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
