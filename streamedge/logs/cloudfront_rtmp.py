"""CloudFront's log of RTMP distributions: one line of 17 fields for each event of a player. Pure.

Source: CloudFront Developer Guide (2016), "RTMP Distribution Log File Format". The samples there
have a blank before most values, and one tab in the line of the fields; lines written here have
neither, and ``decode`` accepts both.
"""

from __future__ import annotations

import calendar
import time
from enum import StrEnum
from typing import Final, NamedTuple

from streamedge.logs.cloudfront import clock
from streamedge.logs.escaping import escape, escape_or_absent, unescape

FIELDS: Final = (
    "date",
    "time",
    "x-edge-location",
    "c-ip",
    "x-event",
    "sc-bytes",
    "x-cf-status",
    "x-cf-client-id",
    "cs-uri-stem",
    "cs-uri-query",
    "c-referrer",
    "x-page-url",
    "c-user-agent",
    "x-sname",
    "x-sname-query",
    "x-file-ext",
    "x-sid",
)
HEAD: Final = f"#Version: 1.0\n#Fields: {' '.join(FIELDS)}\n"
"""The first two lines of a file."""

STATUS: Final = "OK"
"""The only value of x-cf-status."""


class StreamEvent(StrEnum):
    """x-event."""

    CONNECT = "connect"
    DISCONNECT = "disconnect"
    PLAY = "play"
    STOP = "stop"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SEEK = "seek"


class StreamRecord(NamedTuple):
    """One event of a client. Texts may have any character; None where there is none.

    ``received_s``: when it happened, in seconds since 1970. ``sent_bytes``: in all, over the
    connection. ``client_id``: unique for the connection. ``stem`` and ``query``: of tcUrl.
    ``stream``: the stream's name without query and extension; it, its query, its extension and
    ``stream_id`` are None for connect and disconnect.
    """

    received_s: int
    location: str
    address: str
    event: str
    sent_bytes: int
    status: str
    client_id: str
    stem: str | None
    query: str | None
    referrer: str | None
    page_url: str | None
    agent: str | None
    stream: str | None
    stream_query: str | None
    extension: str | None
    stream_id: int | None


def encode(record: StreamRecord) -> bytes:
    """The line of an event, with its end."""
    texts = (
        record.stem,
        record.query,
        record.referrer,
        record.page_url,
        record.agent,
        record.stream,
        record.stream_query,
        record.extension,
    )
    stream_id = "-" if record.stream_id is None else str(record.stream_id)
    line = "\t".join(
        (
            clock(record.received_s),
            escape(_to_bytes(record.location)),
            escape(record.address),
            record.event,
            str(record.sent_bytes),
            record.status,
            escape(record.client_id),
            *[escape_or_absent(None if text is None else _to_bytes(text)) for text in texts],
            stream_id,
        )
    )
    return f"{line}\n".encode("ascii")


def decode(line: str) -> StreamRecord:
    """The record of a line without its end. Raises ValueError for a line of another form."""
    texts = [text.strip(" ") for text in line.split("\t")]
    if len(texts) != len(FIELDS):
        raise ValueError(f"{len(texts)} fields, not {len(FIELDS)}")
    received = time.strptime(f"{texts[0]} {texts[1]}", "%Y-%m-%d %H:%M:%S")
    values = [_from_bytes(unescape(text)) for text in texts]
    return StreamRecord(
        calendar.timegm(received),
        values[2] or "",
        values[3] or "",
        texts[4],
        int(texts[5]),
        texts[6],
        values[7] or "",
        stem=values[8],
        query=values[9],
        referrer=values[10],
        page_url=values[11],
        agent=values[12],
        stream=values[13],
        stream_query=values[14],
        extension=values[15],
        stream_id=None if texts[16] == "-" else int(texts[16]),
    )


def _to_bytes(text: str) -> str:
    """A text as its UTF-8 bytes, each a character."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _from_bytes(text: str | None) -> str | None:
    return None if text is None else text.encode("latin-1").decode("utf-8", "surrogatepass")
