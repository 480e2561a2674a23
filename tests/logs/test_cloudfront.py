"""CloudFront's standard log: its own samples, and what is written is read as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.logs.cloudfront import (
    FIELDS,
    HEAD,
    NO_TLS,
    DetailedError,
    Result,
    WebRecord,
    decode,
    encode,
    tls_text,
)
from streamedge.logs.escaping import escape, escape_or_absent, masked, unescape

# CloudFront Developer Guide, "Configuring and using standard logs"; the third sample there has a
# tab at its end, which is left out here.
_AGENT = (
    "Mozilla/5.0%20(Windows%20NT%2010.0;%20Win64;%20x64)%20AppleWebKit/537.36"
    "%20(KHTML,%20like%20Gecko)%20Chrome/78.0.3904.108%20Safari/537.36"
)
SAMPLES = (
    "2019-12-04\t21:02:31\tLAX1\t392\t192.0.2.100\tGET\td111111abcdef8.cloudfront.net\t/index.html"
    f"\t200\t-\t{_AGENT}\t-\t-\tHit\tSOX4xwn4XV6Q4rgb7XiVGOHms_BGlTAC4KyHmureZmBNrjGdRLiNIQ=="
    "\td111111abcdef8.cloudfront.net\thttps\t23\t0.001\t-\tTLSv1.2\tECDHE-RSA-AES128-GCM-SHA256"
    "\tHit\tHTTP/2.0\t-\t-\t11040\t0.001\tHit\ttext/html\t78\t-\t-",
    "2019-12-13\t22:36:27\tSEA19-C1\t900\t192.0.2.200\tGET\td111111abcdef8.cloudfront.net"
    f"\t/favicon.ico\t502\thttp://www.example.com/\t{_AGENT}\t-\t-\tError"
    "\t1pkpNfBQ39sYMnjjUQjmH2w1wdJnbHYTbag21o_3OfcQgPzdL2RSSQ==\twww.example.com\thttp\t675\t0.102"
    "\t-\t-\t-\tError\tHTTP/1.1\t-\t-\t25260\t0.102\tOriginDnsError\ttext/html\t507\t-\t-",
    "2019-12-13\t22:37:02\tSEA19-C2\t900\t192.0.2.200\tGET\td111111abcdef8.cloudfront.net\t/\t502"
    "\t-\tcurl/7.55.1\t-\t-\tError\tkBkDzGnceVtWHqSCqBUqtA_cEs2T3tFUBbnBNkB9El_uVRhHgcZfcw=="
    "\twww.example.com\thttp\t387\t0.103\t-\t-\t-\tError\tHTTP/1.1\t-\t-\t12644\t0.103"
    "\tOriginDnsError\ttext/html\t507\t-\t-",
)

latin = st.text(st.characters(max_codepoint=255), min_size=1)
absent_or_latin = st.none() | latin
positive = st.integers(0, 2**63)
results = st.sampled_from([str(result) for result in Result])

records = st.builds(
    WebRecord,
    ended_s=st.integers(0, 4_000_000_000),
    location=latin,
    sent_bytes=positive,
    address=st.ip_addresses().map(str),
    method=latin,
    domain=latin,
    stem=latin,
    status=st.integers(0, 599),
    referer=absent_or_latin,
    agent=absent_or_latin,
    query=absent_or_latin,
    cookie=absent_or_latin,
    result=results,
    request_id=latin,
    host=absent_or_latin,
    protocol=st.sampled_from(["http", "https", "ws", "wss"]),
    received_bytes=positive,
    duration_ms=st.integers(0, 10**9),
    forwarded_for=absent_or_latin,
    tls_protocol=absent_or_latin,
    tls_cipher=absent_or_latin,
    response_result=results,
    http_version=st.sampled_from(["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"]),
    fle_status=absent_or_latin,
    fle_fields=absent_or_latin,
    port=st.integers(0, 65535),
    first_byte_ms=st.integers(0, 10**9),
    detailed=results | st.sampled_from([str(error) for error in DetailedError]),
    content_type=absent_or_latin,
    content_length=st.none() | positive,
    range_start=st.none() | positive,
    range_end=st.none() | positive,
)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_of_cloudfront_are_read_and_written_as_they_are(sample: str) -> None:
    assert encode(decode(sample)) == f"{sample}\n".encode()


@given(records)
def test_a_record_is_read_as_it_was_written(record: WebRecord) -> None:
    line = encode(record).decode("ascii").removesuffix("\n")
    assert decode(line) == record
    assert line.count("\t") == len(FIELDS) - 1
    assert not set(line) & set(" \"<>#{}|\\^~[]`'\r\n\x00\x7f")


@given(st.text() | st.lists(latin, max_size=40).map("\t".join))
def test_any_line_is_a_record_or_an_error(line: str) -> None:
    try:
        record = decode(line)
    except ValueError:
        return
    assert decode(encode(record).decode().removesuffix("\n")) == record


def test_head_names_33_fields() -> None:
    version, fields, end = HEAD.split("\n")
    assert (version, end) == ("#Version: 1.0", "")
    assert len(fields.removeprefix("#Fields: ").split(" ")) == len(FIELDS) == 33


def test_bytes_are_encoded_as_cloudfront_encodes_them() -> None:
    assert escape("a b\x00\xff<>\"#%{}|\\^~[]`'\x7f") == (
        "a%20b%00%FF%3C%3E%22%23%25%7B%7D%7C%5C%5E%7E%5B%5D%60%27%7F"
    )
    assert escape("/%7Euser/a+b;c=d&e,f:g@h!$()*") == "/%257Euser/a+b;c=d&e,f:g@h!$()*"


def test_a_hyphen_that_was_sent_differs_from_no_value() -> None:
    assert escape_or_absent(None) == escape_or_absent("") == "-"
    assert unescape(escape_or_absent("-")) == "-"
    assert tls_text(None, None) == NO_TLS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a=1&Signature=abc~_-&b=2", "a=1&Signature=***&b=2"),
        ("Policy=eyJ&Signature=x&Key-Pair-Id=K2", "Policy=***&Signature=***&Key-Pair-Id=***"),
        (
            "a=1; CloudFront-Signature=xy; CloudFront-Policy=zz;CloudFront-Key-Pair-Id=K2",
            "a=1; CloudFront-Signature=***; CloudFront-Policy=***;CloudFront-Key-Pair-Id=***",
        ),
        ("https://r.example/p?Signature=abc#top", "https://r.example/p?Signature=***#top"),
        ("X-Amz-Signature=abc&X-Amz-Date=1", "X-Amz-Signature=***&X-Amz-Date=1"),
        ("x%3FSignature%3Dabc", "x%3FSignature%3D***"),
        ("MySignature=abc&Expires=12", "MySignature=abc&Expires=12"),
    ],
)
def test_signatures_are_masked(value: str, shown: str) -> None:
    assert masked(value) == shown
