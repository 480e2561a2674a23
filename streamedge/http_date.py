"""The three forms of an HTTP date, and nothing else that looks like one: RFC 9110 §5.6.7.

Pure: text in, seconds since 1970 out. Names of days and months and "GMT" are read in any case, as
caches in the field do; every other deviation makes the text no date, because a cache that guesses
at an expiry date keeps what it should not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

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
_YEARS_AHEAD_MAX = 50  # a two-digit year that seems further ahead is one of the past


def parse_http_date_s(value: str, now_s: float = _ANY_TIME_S) -> int | None:
    """Seconds since 1970 of an HTTP date; None when it is not one.

    ``now_s`` places the two-digit year of the obsolete form. The name of the day is not checked
    against the date. A leap second counts as the second after it.
    """
    value = value.strip(" \t")
    for form in _FORMS:
        found = form.fullmatch(value)
        if found is None:
            continue
        year = int(found["year"])
        if len(found["year"]) == 2:
            year = _full_year(year, now_s)
        second = int(found["second"])
        try:
            minute = datetime(
                year,
                _MONTHS.index(found["month"].lower()) + 1,
                int(found["day"]),
                int(found["hour"]),
                int(found["minute"]),
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
