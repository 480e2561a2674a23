"""What a request to the cache gets: a stored response, a passed one, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streamedge.cache.lookup.in_flight import CacheStatus
from streamedge.cache.reader import CacheResult, Reader
from streamedge.origin import OriginResponse


class Stored(NamedTuple):
    """A response from the cache. The caller closes the reader.

    ``withheld``: fields that are not stored and belong to this request only.
    """

    reader: Reader
    result: CacheResult
    cache_status: CacheStatus
    withheld: Mapping[str, str] = {}


class Passed(NamedTuple):
    """A response passed through from the origin. The caller reads or closes it.

    ``leaves_conditions``: the origin has not evaluated the viewer's conditions, which it was not
    sent.
    """

    response: OriginResponse
    cache_status: CacheStatus
    leaves_conditions: bool = False


class Unavailable(NamedTuple):
    """The request had ``only-if-cached`` and no stored response may be used: 504 (RFC 9111
    §5.2.1.7).
    """


Outcome = Stored | Passed | Unavailable
