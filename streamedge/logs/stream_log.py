"""Lines of CloudFront's RTMP log, where a distribution has a log: one for each event of a client.

A client's plays are numbered from 1 on in x-sid. As in CloudFront's log, x-sname is the object
without its extension, c-referrer is swfUrl and c-user-agent flashVer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from streamedge.logs.cloudfront_rtmp import STATUS, StreamEvent, StreamRecord, encode
from streamedge.logs.escaping import masked
from streamedge.logs.spool import Lines, SpoolWriter
from streamedge.logs.spool_names import SpoolTarget

_CLIENT_ID_BYTES: Final = 16
_OF_A_PLAY: Final = {
    event.value: event
    for event in (
        StreamEvent.PLAY,
        StreamEvent.STOP,
        StreamEvent.PAUSE,
        StreamEvent.UNPAUSE,
        StreamEvent.SEEK,
    )
}


class ConnectedClient(NamedTuple):
    """A client's address, and the texts of its connect."""

    address: str
    tc_url: str
    swf_url: str
    page_url: str
    flash_version: str


class PlayedStream(NamedTuple):
    """The object that is played: its name without extension, the query that the client sent, and
    the extension; "" for what is absent.
    """

    name: str
    query: str
    extension: str


@dataclass(slots=True)
class StreamLog:
    """The access logs of a worker's rtmp distributions.

    ``targets``: by distribution, of those that have a log. ``location``: the edge's name. ``spool``
    is None where no line can be written, as in tests.
    """

    location: str = ""
    spool: SpoolWriter | None = None
    targets: Mapping[str, SpoolTarget] = field(default_factory=dict)

    def connected(
        self, distribution: str, client: ConnectedClient, sent_bytes: int
    ) -> ClientLog | None:
        """The log of a client that has connected, with its first line; None: there is none."""
        if distribution not in self.targets:
            return None
        client_log = ClientLog(self, distribution, client)
        client_log.add_connect(sent_bytes)
        return client_log


class ClientLog:
    """The lines of one client."""

    __slots__ = ("_distribution", "_log", "_plays", "_plays_begun", "_record")

    def __init__(self, log: StreamLog, distribution: str, client: ConnectedClient) -> None:
        self._distribution = distribution
        self._log = log
        self._plays: dict[Hashable, tuple[int, PlayedStream]] = {}  # x-sid and stream by player
        self._plays_begun = 0
        stem, _, query = client.tc_url.partition("?")
        self._record = StreamRecord(
            received_s=0,
            location=log.location,
            address=client.address,
            event="",
            sent_bytes=0,
            status=STATUS,
            client_id=secrets.token_hex(_CLIENT_ID_BYTES),
            stem=masked(stem) or None,
            query=masked(query) or None,
            referrer=masked(client.swf_url) or None,
            page_url=masked(client.page_url) or None,
            agent=client.flash_version or None,
            stream=None,
            stream_query=None,
            extension=None,
            stream_id=None,
        )

    def add_connect(self, sent_bytes: int) -> None:
        """Adds the line of the connect. ``sent_bytes``: over the connection so far."""
        self._write(self._record._replace(event=StreamEvent.CONNECT, sent_bytes=sent_bytes))

    def add_disconnect(self, sent_bytes: int) -> None:
        """Adds the line of the disconnect, behind those of the plays that end with it."""
        for player in list(self._plays):
            self._add_stop(player, sent_bytes)
        self._write(self._record._replace(event=StreamEvent.DISCONNECT, sent_bytes=sent_bytes))

    def add_play(self, event: str, player: Hashable, stream: PlayedStream, sent_bytes: int) -> None:
        """Adds a line of a player's play; does nothing for an event that the log does not have."""
        kind = _OF_A_PLAY.get(event)
        if kind is StreamEvent.PLAY:
            self._plays_begun += 1
            self._plays[player] = self._plays_begun, stream
        if kind is None or player not in self._plays:
            return
        if kind is StreamEvent.STOP:
            self._add_stop(player, sent_bytes)
        else:
            self._add(kind, *self._plays[player], sent_bytes)

    def _add_stop(self, player: Hashable, sent_bytes: int) -> None:
        self._add(StreamEvent.STOP, *self._plays.pop(player), sent_bytes)

    def _add(
        self, kind: StreamEvent, stream_id: int, stream: PlayedStream, sent_bytes: int
    ) -> None:
        record = self._record._replace(
            event=kind,
            sent_bytes=sent_bytes,
            stream=stream.name,
            stream_query=masked(stream.query) or None,
            extension=stream.extension or None,
            stream_id=stream_id,
        )
        self._write(record)

    def _write(self, record: StreamRecord) -> None:
        target, spool = self._log.targets.get(self._distribution), self._log.spool
        if target is not None and spool is not None:
            now_s = time.time()
            record = record._replace(received_s=int(now_s))
            spool.add(1, now_s, partial(_lines, target, record))


def _lines(target: SpoolTarget, record: StreamRecord) -> Lines:
    return [(target, encode(record))]
