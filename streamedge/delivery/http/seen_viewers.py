"""The HTTP viewers of a worker, while an operator looks at them.

A viewer is an address with an agent on a site: it was sent a response in the last SEEN_S, or one is
on its way. So the objects of a page and the segments of a film are one viewer's. The handler passes
finished responses only while this exists, so it costs nothing else. Of more than FINISHED_MAX
responses between two looks the rest is counted, and not examined.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.viewers import ViewerRow, cut

SEEN_S = 30.0
FINISHED_MAX = 4096
VIEWERS_MAX = 4096
CLIENTS_MAX = 16  # connections of one viewer that are remembered, so that they can be closed

ViewerKey = tuple[str, str, str]
"""Address, agent and host."""


class RunningResponse(NamedTuple):
    """A response on its way. ``client``: of its connection; ``address``: the viewer's."""

    request: WebRequest
    client: str
    address: str
    distribution: str
    sent_bytes: int
    started_s: float

    @property
    def viewer(self) -> ViewerKey:
        return viewer_key(self.request, self.address)


@dataclass(slots=True, eq=False)
class _Seen:
    """What was seen of a viewer; times are of the loop's clock.

    ``path``: of the newest request. ``sent``: bytes of finished responses.
    """

    distribution: str
    protocol: str
    first_s: float
    last_s: float
    path: bytes = b""
    sent: int = 0
    requests: int = 0
    clients: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def note_client(self, client: str) -> None:
        self.clients[client] = None
        if len(self.clients) > CLIENTS_MAX:
            self.clients.popitem(last=False)


class SeenViewers:
    """Viewers from the first look on."""

    def __init__(self) -> None:
        self._hits: list[SentHit] = []
        self._finished: list[tuple[WebRequest, str, int]] = []
        self._viewers: OrderedDict[ViewerKey, _Seen] = OrderedDict()
        self.skipped = 0  # responses since the last look that are not examined

    def add_hits(self, hits: Sequence[SentHit]) -> None:
        """Notes hits of the fast path. Called for each batch of hits."""
        if len(self._hits) < FINISHED_MAX:
            self._hits += hits
        else:
            self.skipped += len(hits)

    def add(self, request: WebRequest, distribution: str, sent_bytes: int) -> None:
        """Notes another response."""
        if len(self._finished) < FINISHED_MAX:
            self._finished.append((request, distribution, sent_bytes))
        else:
            self.skipped += 1

    def rows(self, running: Iterable[RunningResponse], now_s: float) -> list[ViewerRow]:
        """The viewers now: those with a response on its way, then the others."""
        sending = self._update(running, now_s)
        rows = [
            _row(key, self._viewers[key], responses, now_s)
            for key, responses in sending.items()
            if key in self._viewers
        ]
        rows += [
            _row(key, seen, (), now_s)
            for key, seen in reversed(self._viewers.items())
            if key not in sending
        ]
        return rows

    def count(self, running: Iterable[RunningResponse], now_s: float) -> int:
        """How many viewers there are now."""
        self._update(running, now_s)
        return len(self._viewers)

    def find(self, identifier: str) -> tuple[ViewerKey, frozenset[str]] | None:
        """The viewer of a row, and the connections on which it was seen; None if there is none."""
        for key, seen in self._viewers.items():
            if viewer_id(key) == identifier:
                return key, frozenset(seen.clients)
        return None

    def _update(
        self, running: Iterable[RunningResponse], now_s: float
    ) -> dict[ViewerKey, list[RunningResponse]]:
        """Notes what has happened since the last look; returns the running
        responses by viewer."""
        self._examine(now_s)
        sending: dict[ViewerKey, list[RunningResponse]] = {}
        for response in running:
            if len(sending) < VIEWERS_MAX:
                sending.setdefault(response.viewer, []).append(response)
        for key, responses in sending.items():
            newest = max(responses, key=lambda response: response.started_s)
            seen = self._seen(key, newest.distribution, newest.request, now_s)
            seen.first_s = min(seen.first_s, *(response.started_s for response in responses))
            for response in responses:
                seen.note_client(response.client)
        while self._viewers:
            oldest = next(iter(self._viewers.values()))
            if now_s - oldest.last_s <= SEEN_S and len(self._viewers) <= VIEWERS_MAX:
                break
            self._viewers.popitem(last=False)
        return sending

    def _examine(self, now_s: float) -> None:
        """Counts the responses that were noted since the last look."""
        hits, self._hits = self._hits, []
        finished, self._finished = self._finished, []
        # Most hits are of few requests and connections: by identity, as long as ``hits`` has them.
        seen_of: dict[tuple[int, int], _Seen] = {}
        for remembered, _range, _status, viewer, sent_bytes, _response, _id, _start, _end in hits:
            pair = id(remembered), id(viewer)
            seen = seen_of.get(pair)
            if seen is None:
                key = viewer_key(remembered.request, remembered.address or viewer.address)
                seen = self._seen(key, remembered.distribution, remembered.request, now_s)
                seen.note_client(viewer.client)
                seen_of[pair] = seen
            seen.sent += sent_bytes
            seen.requests += 1
        for request, distribution, sent_bytes in finished:
            seen = self._seen(viewer_key(request, request.address), distribution, request, now_s)
            seen.note_client(request.client)
            seen.sent += sent_bytes
            seen.requests += 1

    def _seen(self, key: ViewerKey, distribution: str, request: WebRequest, now_s: float) -> _Seen:
        seen = self._viewers.get(key)
        if seen is None:
            protocol = f"{'https' if request.secure else 'http'}/{request.http_version}"
            seen = self._viewers[key] = _Seen(distribution, protocol, now_s, now_s)
        else:
            self._viewers.move_to_end(key)
        seen.last_s = now_s
        seen.path = request.path
        return seen


def viewer_key(request: WebRequest, address: str) -> ViewerKey:
    """Which viewer sent a request."""
    return address, request.headers.get("user-agent", ""), request.host


def viewer_id(key: ViewerKey) -> str:
    """The id of a viewer, the same in all workers: "h" and 16 hexadecimal digits."""
    return "h" + blake2b("\0".join(key).encode(), digest_size=8).hexdigest()


def _row(
    key: ViewerKey, seen: _Seen, responses: Sequence[RunningResponse], now_s: float
) -> ViewerRow:
    address, agent, host = key
    return ViewerRow(
        id=viewer_id(key),
        kind="http",
        protocol=seen.protocol,
        address=address,
        client=next(iter(seen.clients)) if len(seen.clients) == 1 else "",
        distribution=seen.distribution,
        site=cut(host),
        object=cut(seen.path.decode("latin-1")),
        agent=cut(agent),
        state="sending" if responses else "seen",
        position_s=None,
        sent_bytes=seen.sent + sum(response.sent_bytes for response in responses),
        requests=seen.requests + len(responses),
        age_s=round(max(0.0, now_s - seen.first_s), 1),
        idle_s=0.0 if responses else round(max(0.0, now_s - seen.last_s), 1),
    )
