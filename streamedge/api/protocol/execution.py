"""Executes one signed request: from the digest of its body to the response document.

Calls the pure steps in order: signature, operation, input, handler, output. It runs in a thread,
because a handler may block; the first call loads botocore's service model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from streamedge.api.errors import ApiError
from streamedge.api.protocol.answers import Answer
from streamedge.api.protocol.binding import read_input, read_path, read_query, write_output
from streamedge.api.protocol.model import cloudfront
from streamedge.api.protocol.service import VERSION, Call, Handlers
from streamedge.api.sigv4 import Claim, normalized_path


def carry_out(
    handlers: Callable[[], Handlers],
    claim: Claim,
    body: bytes,
    address: str,
    now_s: float,
    found_out: Callable[[str], None],
) -> Answer:
    """The answer of the operation that the request means. Raises ApiError.

    ``address`` begins a Location; ``found_out`` is told the operation's name once it is known.
    """
    refused = claim.refusal(hashlib.sha256(body).hexdigest())
    if refused is not None:
        raise refused
    request = claim.request
    table = handlers()
    query = read_query(request.query)
    found = cloudfront().find(request.method, read_path(normalized_path(request.path)), query)
    if found is None:
        raise _not_offered(f"CloudFront {VERSION} has no such operation", table)
    name = found.operation.name
    found_out(name)
    handler = table.get(name)
    if handler is None:
        raise _not_offered(f"{name} is not offered", table)
    given = read_input(found, query, dict(request.fields), body)
    output = handler(Call(name, given, claim.key_id, now_s))
    return write_output(found.operation, output, address)


def _not_offered(reason: str, handlers: Handlers) -> ApiError:
    return ApiError("NotImplemented", f"{reason}; this edge offers {', '.join(sorted(handlers))}.")
