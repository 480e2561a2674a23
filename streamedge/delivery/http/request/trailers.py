"""Which trailer fields the edge forwards: RFC 9110 §6.5.

Pure. The edge never merges trailers into the header fields, but a recipient may. So fields that
must be known before the body (framing, routing, content type, credentials, caching) are not
forwarded as trailers: no check of the head has seen them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamedge.config.schema.field_names import (
    CONDITION_FIELDS,
    EDGE_OWNED,
    FRAMING_FIELDS,
    OVERRIDE_FIELDS,
    dashed_name,
)
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.http_fields import connection_options

TRAILER_BYTES_MAX = 8 << 10  # for one request, as received

_CREDENTIALS = frozenset({"authorization", "cookie", "set-cookie", "www-authenticate"})
_CONTROLS = frozenset(
    {
        *("cache-control", "cdn-cache-control", "surrogate-control", "expires", "pragma", "vary"),
        *("warning", "location", "retry-after", "content-type"),
    }
)
_NEVER = CONDITION_FIELDS | EDGE_OWNED | FRAMING_FIELDS | OVERRIDE_FIELDS | _CREDENTIALS | _CONTROLS


def forwardable_trailers(trailers: Iterable[Field], head: Sequence[Field]) -> list[Field]:
    """The trailer fields of a message that may be forwarded; ``head`` has its header fields."""
    removed = _NEVER | connection_options(head)
    return [
        field
        for field in trailers
        if field[0].lower() not in removed and dashed_name(field[0]) not in _NEVER
    ]


def accepts_trailers(headers: Mapping[str, str]) -> bool:
    """Whether a request has "TE: trailers" (RFC 9110 §10.1.4); ``headers`` in lower case."""
    codings = headers.get("te", "").split(",")
    return any(coding.partition(";")[0].strip().lower() == "trailers" for coding in codings)
