"""Formats HTTP dates, and parses their three forms (RFC 9110 §5.6.7), strictly.

Pure: text in, seconds since 1970 out. Names of days and months and "GMT" may have any case, as
other caches allow. A value with any other deviation is not a date: a cache that estimates an expiry
date stores responses that it should not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = "(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FLAGS = re.ASCII | re.IGNORECASE
_FORMS = (
    re.compile(rf"{_DAY}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} gmt", _FLAGS),
    re.compile(rf"{_LONG_DAY}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} gmt", _FLAGS),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>\d\d| \d) {_TIME} (?P<year>\d{{4}})", _FLAGS),
)
# 2018: two digits then mean 1969 to 2068, as POSIX reads them.
_ANY_TIME_S = 1_530_000_000.0
_FIXDATE_LENGTH = len("Sun, 06 Nov 1994 08:49:37 GMT")
_YEARS_AHEAD_MAX = 50  # a two-digit year further ahead is in the past


def parse_http_date_s(value: str, now_s: float = _ANY_TIME_S) -> int | None:
    """Seconds since 1970 of an HTTP date; None when it is not one.

    ``now_s`` places the two-digit year of the obsolete form. The name of the day is not checked
    against the date. A leap second counts as the second after it.
    """
    value = value.strip(" \t")
    if not value:
        return None
    if len(value) == _FIXDATE_LENGTH:
        return _parse_fixdate(value)
    return _parse(value, now_s)


@lru_cache(256)  # within a second, an origin's responses have the same Date
def _parse_fixdate(value: str) -> int | None:
    return _parse(value, _ANY_TIME_S)


def _parse(value: str, now_s: float) -> int | None:
    for form in _FORMS:
        match = form.fullmatch(value)
        if match is None:
            continue
        year = int(match["year"])
        if len(match["year"]) == 2:
            year = _full_year(year, now_s)
        second = int(match["second"])
        try:
            minute = datetime(
                year,
                _MONTHS.index(match["month"].lower()) + 1,
                int(match["day"]),
                int(match["hour"]),
                int(match["minute"]),
                tzinfo=UTC,
            )
        except ValueError:
            return None
        return int(minute.timestamp()) + second if second <= 60 else None
    return None


def _full_year(two_digits: int, now_s: float) -> int:
    this_year = datetime.fromtimestamp(now_s, UTC).year
    year = this_year - this_year % 100 + two_digits
    if year > this_year + _YEARS_AHEAD_MAX:
        year -= 100
    elif year <= this_year - _YEARS_AHEAD_MAX:
        year += 100
    return year


@lru_cache(maxsize=1024)
def format_http_date(seconds: int) -> str:
    """Seconds since 1970 as an IMF-fixdate."""
    return formatdate(seconds, usegmt=True)
