"""Fields that come behind a body, and which of them go on: RFC 9110 §6.5.

Pure. They never become header fields here. What somebody must know before the body (where it ends,
whom it is for, what it is, who asks, how long it keeps) is not taken from behind it: whoever merges
fields all the same would believe a word that nobody has checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamedge.config.schema.field_names import (
    CONDITIONS,
    EDGE_OWNED,
    FRAMING,
    OVERRIDES,
    dashed_name,
)
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.request import connection_options

TRAILER_BYTES_MAX = 8 << 10  # of one request, counted as they were sent

_CREDENTIALS = frozenset({"authorization", "cookie", "set-cookie", "www-authenticate"})
_CONTROLS = frozenset(
    {
        *("cache-control", "cdn-cache-control", "surrogate-control", "expires", "pragma", "vary"),
        *("warning", "location", "retry-after", "content-type"),
    }
)
_NEVER = CONDITIONS | EDGE_OWNED | FRAMING | OVERRIDES | _CREDENTIALS | _CONTROLS


def forwardable_trailers(trailers: Iterable[Field], head: Sequence[Field]) -> list[Field]:
    """The trailer fields that may follow a message's body; ``head`` are its header fields."""
    refused = _NEVER | connection_options(head)
    return [
        field
        for field in trailers
        if field[0].lower() not in refused and dashed_name(field[0]) not in _NEVER
    ]


def accepts_trailers(headers: Mapping[str, str]) -> bool:
    """Whether a request says that trailer fields are not thrown away (RFC 9110 §10.1.4)."""
    codings = headers.get("te", "").split(",")
    return any(coding.partition(";")[0].strip().lower() == "trailers" for coding in codings)
