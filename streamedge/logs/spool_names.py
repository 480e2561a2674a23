"""Names in the spool folder: segments that workers write, batches that are delivered. Pure."""

from __future__ import annotations

import calendar
import time
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from streamedge.logs import cloudfront, cloudfront_rtmp

HOUR_S = 3600
UNIQUE_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
UNIQUE_CHARACTERS = 11  # as in the names that CloudFront's documentation shows
_COMPRESSED = ".gz"


class LogFormat(StrEnum):
    """The format of a log's lines."""

    WEB = "web"
    RTMP = "rtmp"
    REALTIME = "realtime"

    @property
    def head(self) -> str:
        """The text before the first line of a file."""
        return _HEADS[self]


_HEADS = {
    LogFormat.WEB: cloudfront.HEAD,
    LogFormat.RTMP: cloudfront_rtmp.HEAD,
    LogFormat.REALTIME: "",
}


class SpoolTarget(NamedTuple):
    """The log of a distribution. ``interval_s``: how often it is delivered."""

    distribution: str
    format: LogFormat
    interval_s: float


class SegmentName(NamedTuple):
    """A file of lines of one hour. It is complete at ``due_s`` at the latest, or when its writer
    has ended. ``writer`` is unique for each file. ``is_compressed``: it has blocks (``blocks``).
    """

    distribution: str
    format: LogFormat
    hour: int  # hours since 1970
    due_s: int  # seconds since 1970
    writer: str
    is_compressed: bool = False

    def __str__(self) -> str:
        hour = format_hour(self.hour)
        name = f"{self.distribution}.{hour}.{self.format}.{self.due_s}.{self.writer}"
        return f"{name}{_COMPRESSED}" if self.is_compressed else name


class BatchName(NamedTuple):
    """A folder of segments that become one delivered file."""

    distribution: str
    format: LogFormat
    hour: int
    unique: str

    def __str__(self) -> str:
        return f"{self.distribution}.{format_hour(self.hour)}.{self.format}.{self.unique}"

    @property
    def file_name(self) -> str:
        """The name of the delivered file, as CloudFront's: ``ID.YYYY-MM-DD-HH.UNIQUE.gz``."""
        return f"{self.distribution}.{format_hour(self.hour)}.{self.unique}.gz"


def parse_segment(name: str) -> SegmentName | None:
    """The parts of a segment's name; None for another name."""
    parts = name.removesuffix(_COMPRESSED).split(".")
    try:
        distribution, hour, log_format, due, writer = parts
        return SegmentName(
            distribution,
            LogFormat(log_format),
            parse_hour(hour),
            int(due),
            writer,
            name.endswith(_COMPRESSED),
        )
    except ValueError:
        return None


def parse_batch(name: str) -> BatchName | None:
    """The parts of a batch's name; None for another name."""
    parts = name.split(".")
    try:
        distribution, hour, log_format, unique = parts
        return BatchName(distribution, LogFormat(log_format), parse_hour(hour), unique)
    except ValueError:
        return None


def format_hour(hour: int) -> str:
    """``YYYY-MM-DD-HH``, UTC."""
    return time.strftime("%Y-%m-%d-%H", time.gmtime(hour * HOUR_S))


def parse_hour(text: str) -> int:
    """The hour that ``format_hour`` writes. Raises ValueError."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%d-%H")) // HOUR_S


def due_s(interval_s: float, now_s: float) -> int:
    """When a segment that begins now is complete, in seconds since 1970: as its interval ends.

    Intervals begin at the same times in all processes, so their segments are delivered together.
    """
    return ceil((now_s // interval_s + 1) * interval_s)
