"""The counts of HTTP responses by distribution and cache result: responses, bytes, first bytes."""

from __future__ import annotations

from streamedge.cache.reader import CacheResult
from streamedge.ops.metrics import Counter, Counts, Histogram, pair

NO_DISTRIBUTION = "none"  # of requests for a host that no distribution serves


class ResponseTallies:
    """The tallies of one distribution and cache result; ``total``: of the result."""

    __slots__ = ("first_byte", "responses", "sent_bytes", "total")

    def __init__(self, counts: Counts, distribution: str, result: CacheResult) -> None:
        label = pair(distribution or NO_DISTRIBUTION, result.value)
        self.total = counts.tally(Counter.RESPONSES, result.value)
        self.responses = counts.tally(Counter.DISTRIBUTION_RESPONSES, label)
        self.sent_bytes = counts.tally(Counter.DISTRIBUTION_BYTES, label)
        self.first_byte = counts.histogram(Histogram.FIRST_BYTE, label)


class DistributionTallies(dict[str, ResponseTallies]):
    """The tallies of one cache result by distribution, made when they are first used.

    Keys are ids of the config and of the API, or "": viewers choose none of them.
    """

    def __init__(self, counts: Counts, result: CacheResult) -> None:
        super().__init__()
        self._counts = counts
        self._result = result

    def __missing__(self, distribution: str) -> ResponseTallies:
        tallies = self[distribution] = ResponseTallies(self._counts, distribution, self._result)
        return tallies
