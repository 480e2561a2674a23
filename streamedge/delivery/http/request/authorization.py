"""Authorizes a request for its route: signature and country.

Builds the URL that a signer may have signed, and caches verified signatures for the worker.
``access.admission`` makes the decision; ``dispatch`` chooses the status of a refusal.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from streamedge.access.admission import OPEN, AccessRules, Denied, Grant, verify
from streamedge.access.geo import CountryDatabase
from streamedge.access.signature_cache import SignatureCache
from streamedge.access.signed_request import SIGNATURE_LIMIT_BYTES, from_query
from streamedge.delivery.http.request.request import WebRequest

_parsed = lru_cache(maxsize=8192)(ip_address)  # one viewer may send thousands of requests a second


class CachedGrant(NamedTuple):
    """The grant of a remembered request; it is checked again for every hit."""

    rules: AccessRules
    grant: Grant


class Authorizer:
    """Authorizes the requests of a worker."""

    def __init__(
        self, countries: CountryDatabase, signature_bytes: int = SIGNATURE_LIMIT_BYTES
    ) -> None:
        self._countries = countries
        self._signature_bytes = signature_bytes
        self._signatures = SignatureCache()

    def admit(self, rules: AccessRules, request: WebRequest, now_s: float) -> Grant | Denied:
        """The grant of a request, or why it is denied."""
        if not self._serves_country(rules, request.address):
            return Denied("country")
        if rules.keys is None:
            return OPEN
        return verify(
            rules.keys,
            request.query,
            request.headers.get("cookie", ""),
            (_signed_url(request),),
            _parsed(request.address),
            now_s,
            self._signatures,
            self._signature_bytes,
        )

    def still_allows(self, cached: CachedGrant, address: str, now_s: float) -> bool:
        """Whether the grant for the same request bytes holds for this viewer at ``now_s``."""
        rules, grant = cached
        return grant.holds(_parsed(address), now_s) and self._serves_country(rules, address)

    def _serves_country(self, rules: AccessRules, address: str) -> bool:
        return rules.countries is None or rules.countries.allows(self._countries.country(address))


def without_signature(rules: AccessRules, query: str) -> str:
    """The query for cache key and origin: without the parameters of a signature."""
    return query if rules.keys is None or not query else from_query(query)[1]


def _signed_url(request: WebRequest) -> str:
    """The requested URL, as a signer signs it."""
    scheme = "https" if request.secure else "http"
    query = from_query(request.query)[1]
    target = request.path.decode("latin-1") + (f"?{query}" if query else "")
    return f"{scheme}://{request.host}{target}"
