"""CloudFront's RTMP log: its own samples, and what is written is read as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.logs.cloudfront_rtmp import (
    FIELDS,
    HEAD,
    STATUS,
    StreamEvent,
    StreamRecord,
    decode,
    encode,
)

# CloudFront Developer Guide (2016), "RTMP Distribution Log File Format".
_CONNECTION = (
    "\t OK\t bfd8a98bee0840d9b871b7f6ade9908f\t rtmp://shqshne4jdp4b6.cloudfront.net/cfx/st"
    "\tkey=value\t http://player.longtailvideo.com/player.swf"
    "\t http://www.longtailvideo.com/support/jw-player-setup-wizard?example=204"
    "\t LNX%2010,0,32,18"
)
SAMPLES = (
    f"2010-03-12\t 23:51:20\t SEA4\t 192.0.2.147\t connect\t 2014{_CONNECTION}\t -\t -\t -\t -",
    f"2010-03-12\t 23:51:21\t SEA4\t 192.0.2.222\t play\t 3914{_CONNECTION}"
    "\t myvideo\t p=2&q=4\t flv\t 1",
    f"2010-03-12\t 23:53:44\t SEA4\t 192.0.2.4\t stop\t 323914{_CONNECTION}"
    "\t dir/other/myvideo\t p=2&q=4\t flv\t 1",
    f"2010-03-12\t 23:53:44\t SEA4\t 192.0.2.103\t play\t 8783724{_CONNECTION}"
    "\t dir/favs/myothervideo\t p=42&q=14\t mp4\t 2",
    f"2010-03-12\t 23:59:44\t SEA4\t 192.0.2.14\t disconnect\t 429824092{_CONNECTION}"
    "\t -\t -\t -\t -",
)

text = st.text(min_size=1)
absent_or_text = st.none() | text
records = st.builds(
    StreamRecord,
    received_s=st.integers(0, 4_000_000_000),
    location=text,
    address=st.ip_addresses().map(str),
    event=st.sampled_from([str(event) for event in StreamEvent]),
    sent_bytes=st.integers(0, 2**63),
    status=st.just(STATUS),
    client_id=st.text(st.characters(max_codepoint=127), min_size=1),
    stem=absent_or_text,
    query=absent_or_text,
    referrer=absent_or_text,
    page_url=absent_or_text,
    agent=absent_or_text,
    stream=absent_or_text,
    stream_query=absent_or_text,
    extension=absent_or_text,
    stream_id=st.none() | st.integers(0, 2**32),
)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_of_cloudfront_are_read_and_written_without_their_blanks(sample: str) -> None:
    assert encode(decode(sample)).decode("ascii") == sample.replace("\t ", "\t") + "\n"


@given(records)
def test_a_record_is_read_as_it_was_written(record: StreamRecord) -> None:
    line = encode(record).decode("ascii").removesuffix("\n")
    assert decode(line) == record
    assert line.isascii()
    assert line.count("\t") == len(FIELDS) - 1
    assert " " not in line


@given(st.text() | st.lists(text, max_size=20).map("\t".join))
def test_any_line_is_a_record_or_an_error(line: str) -> None:
    try:
        record = decode(line)
    except ValueError:
        return
    assert decode(encode(record).decode("ascii").removesuffix("\n")) == record


def test_head_names_17_fields_by_spaces() -> None:
    version, fields, end = HEAD.split("\n")
    assert (version, end) == ("#Version: 1.0", "")
    assert len(fields.removeprefix("#Fields: ").split(" ")) == len(FIELDS) == 17
