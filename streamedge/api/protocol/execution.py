"""Executes one signed request: from the digest of its body to the response document.

Calls the pure steps in order: signature, operation, input, handler, output. It runs in a thread,
because a handler may block; the first call loads botocore's service model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from streamedge.api.errors import ApiError
from streamedge.api.protocol.binding import read_input, read_path, read_query, write_output
from streamedge.api.protocol.model import cloudfront
from streamedge.api.protocol.responses import ApiResponse
from streamedge.api.protocol.service import API_VERSION, Call, Handlers
from streamedge.api.sigv4 import Authorization, normalized_path


def execute_call(
    handlers: Callable[[], Handlers],
    authorization: Authorization,
    body: bytes,
    address: str,
    now_s: float,
    set_operation: Callable[[str], None],
) -> ApiResponse:
    """Executes the operation of a request and returns its response. Raises ApiError.

    ``address`` is the start of a Location. ``set_operation`` is called with the operation's name
    before the input is read.
    """
    error = authorization.verification_error(hashlib.sha256(body).hexdigest())
    if error is not None:
        raise error
    request = authorization.request
    table = handlers()
    query = read_query(request.query)
    match = cloudfront().find(request.method, read_path(normalized_path(request.path)), query)
    if match is None:
        raise _not_offered(f"CloudFront {API_VERSION} has no such operation", table)
    name = match.operation.name
    set_operation(name)
    handler = table.get(name)
    if handler is None:
        raise _not_offered(f"{name} is not offered", table)
    input_members = read_input(match, query, dict(request.fields), body)
    output = handler(Call(name, input_members, authorization.key_id, now_s))
    return write_output(match.operation, output, address)


def _not_offered(reason: str, handlers: Handlers) -> ApiError:
    return ApiError("NotImplemented", f"{reason}; this edge offers {', '.join(sorted(handlers))}.")
