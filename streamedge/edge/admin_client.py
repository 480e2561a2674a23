"""A running edge, asked over its admin address: one call, one answer in JSON.

Owns how the address is reached and what is said when it cannot be, or the edge says no. What is
asked is the business of the clients beside it.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from streamedge.config.units import format_address
from streamedge.config.values import Address
from streamedge.errors import StreamEdgeError

TIMEOUT_S = 30.0
ANSWER_MAX_BYTES = 16 << 20
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to ask


class AdminError(StreamEdgeError):
    """The edge cannot be asked, or says no; the message is fit for the operator.

    ``answer`` is what it said beside its reason, empty when it said nothing.
    """

    def __init__(self, message: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.answer = answer or {}


def ask(admin: Address, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The edge's answer; ``body`` is sent as JSON. Raises AdminError."""
    host, port = admin
    place = format_address((_EVERY_ADDRESS.get(host, host), port))
    # The edge is this machine's or a neighbour's: no proxy stands before it.
    opener = build_opener(ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    try:
        asked = Request(f"http://{place}{path}", data, headers, method=method)
        with opener.open(asked, timeout=TIMEOUT_S) as response:
            said: dict[str, Any] = json.loads(response.read(ANSWER_MAX_BYTES))
            return said
    except HTTPError as exc:
        with exc:
            raise _refusal(exc) from exc
    except ValueError as exc:
        raise AdminError(f"what answers on {place} is not the edge's admin address") from exc
    except OSError as exc:
        cause = exc.reason if isinstance(exc, URLError) else exc
        raise AdminError(
            f"no edge answers on its admin address {place} ({cause});"
            " it must be running: streamedge serve"
        ) from exc


def _refusal(exc: HTTPError) -> AdminError:
    try:
        said = json.loads(exc.read(ANSWER_MAX_BYTES))
        return AdminError(str(said["error"]), said)
    except (KeyError, TypeError, ValueError):
        return AdminError(f"the admin address answered {exc.code} {exc.reason}")
