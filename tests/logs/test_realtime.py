"""The fields of CloudFront's real-time log as JSON lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.logs.cloudfront import WebRecord
from streamedge.logs.cloudfront import decode as decode_record
from streamedge.logs.realtime import FIELDS, MoreFields, decode, encode, values_of
from tests.logs.test_cloudfront import SAMPLES, absent_or_latin, latin, records

more_fields = st.builds(
    MoreFields,
    ended_ms=st.integers(0, 4_000_000_000_000),
    country=st.sampled_from(["", "DE"]),
    accept_encoding=absent_or_latin,
    accept=absent_or_latin,
    path_pattern=latin,
    headers=st.lists(st.tuples(latin, latin), max_size=40).map(tuple),
)
MORE = MoreFields(1575493351250, "DE", "gzip", "*/*", "images/*", (("host", "a"), ("x", "1 2")))


@given(records, more_fields)
def test_values_are_read_as_they_were_written(record: WebRecord, more: MoreFields) -> None:
    values = values_of(record, more)
    line = encode(values).decode("ascii").removesuffix("\n")
    assert decode(line) == values
    assert "\n" not in line


def test_fields_are_the_40_in_order() -> None:
    assert len(FIELDS) == len(set(FIELDS)) == 40
    assert FIELDS[0] == "timestamp"
    assert FIELDS[-1] == "cs-headers-count"
    assert tuple(values_of(decode_record(SAMPLES[0]), MORE)) == FIELDS


def test_host_stem_and_times_are_those_of_the_real_time_log() -> None:
    record = decode_record(SAMPLES[1])._replace(stem="/a b", query="x=%20")
    values = values_of(record, MORE)
    assert values["cs-host"] == "www.example.com"
    assert values["x-host-header"] == "d111111abcdef8.cloudfront.net"
    assert values["cs-uri-stem"] == "/a%20b?x=%2520"
    assert values["timestamp"] == 1575493351.25
    assert values["time-taken"] == values["time-to-first-byte"] == 0.102
    assert (values["c-ip-version"], values["c-country"]) == ("IPv4", "DE")
    assert values["cs-headers"] == "host:a%0Ax:1%202%0A"
    assert (values["cs-header-names"], values["cs-headers-count"]) == ("host%0Ax%0A", 2)
    assert values["cs-cookie"] is None


def test_long_fields_are_cut_after_800_bytes() -> None:
    record = decode_record(SAMPLES[0])._replace(cookie="c" * 900)
    more = MORE._replace(headers=tuple((f"n{number}", "v" * 100) for number in range(300)))
    values = values_of(record, more)
    assert values["cs-cookie"] == "c" * 800
    assert len(str(values["cs-headers"]).replace("%0A", "\n")) == 800
    assert len(str(values["cs-header-names"]).replace("%0A", "\n")) == 800
    assert values["cs-headers-count"] == 300


@pytest.mark.parametrize("line", ["", "{}", "[" * 100_000, '{"timestamp":[]}', "1"])
def test_other_lines_are_errors(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)
