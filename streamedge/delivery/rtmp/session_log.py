"""What is logged about a session: its log lines, within a budget, and those of CloudFront's log."""

from __future__ import annotations

import traceback

from streamedge.delivery.rtmp.playback.player import Player
from streamedge.delivery.rtmp.protocol.events import Connect
from streamedge.delivery.rtmp.stream_access import redact_name
from streamedge.delivery.rtmp.stream_names import known_extension, split_query
from streamedge.delivery.rtmp.streams import Admission
from streamedge.logs.stream_log import ClientLog, ConnectedClient, PlayedStream, StreamLog
from streamedge.media.medium import Medium
from streamedge.ops.log import Log
from streamedge.ops.rate_limited import LineBudget

LINES_BURST, LINES_PER_S = 200, 10  # log lines of a client, besides connect and disconnect
LOGGED_CHARACTERS_MAX = 1024  # of a name that the client chose
TRACE_LINES_MAX = 8  # the innermost lines, in the log line of an internal error


class SessionLog:
    """The log lines of one session. ``distribution``: its id, once the client is connected.

    ``session`` and ``client``: the session's id, and the peer's address, in each line.
    ``now_s`` is the loop's time.
    """

    __slots__ = (
        "_budget",
        "_client",
        "_client_log",
        "_log",
        "_session",
        "_stream_log",
        "distribution",
    )

    def __init__(
        self, log: Log, stream_log: StreamLog, session: str, client: str, now_s: float
    ) -> None:
        self.distribution: str | None = None
        self._log = log
        self._stream_log = stream_log
        self._session = session
        self._client = client
        self._budget = LineBudget(LINES_BURST, LINES_PER_S, now_s)
        self._client_log: ClientLog | None = None

    def line(self, event: str, **fields: object) -> None:
        """Writes the log line ``rtmp_EVENT``, outside of the budget."""
        self._log.event(
            f"rtmp_{event}",
            client=self._client,
            session=self._session,
            distribution=self.distribution,
            **fields,
        )

    def connected(
        self, event: Connect, admission: Admission, address: str, transport: str, sent_bytes: int
    ) -> None:
        """Logs the accepted connect of the viewer at ``address``."""
        self.line(
            "connect",
            transport=transport,
            application=admission.match.application,
            agent=event.flash_version,
            tc_url=redact_name(event.tc_url).text,
            page=redact_name(event.page_url).text or None,
        )
        client = ConnectedClient(
            address, event.tc_url, event.swf_url, event.page_url, event.flash_version
        )
        distribution = admission.distribution.id
        self._client_log = self._stream_log.connected(distribution, client, sent_bytes)

    def disconnected(self, sent_bytes: int, duration_s: float, reason: str) -> None:
        """Logs the connection's end."""
        self.line(
            "disconnect",
            bytes=sent_bytes,
            seconds=round(duration_s, 3),
            lines_left_out=self._budget.suppressed or None,
            reason=reason,
        )
        if self._client_log is not None:
            self._client_log.add_disconnect(sent_bytes)

    def play_event(
        self, event: str, player: Player, sent_bytes: int, now_s: float, **fields: object
    ) -> None:
        """Logs an event of a play, such as its start and its stop."""
        if not self._budget.allows(now_s):
            return
        medium = player.medium
        self._stream_line(event, player.name, medium, **fields)
        if self._client_log is not None and medium is not None:
            extension = known_extension(medium.name)
            name = medium.name[: -len(extension) - 1] if extension else medium.name
            stream = PlayedStream(name, split_query(player.name)[1], extension)
            self._client_log.add_play(event, player, stream, sent_bytes)

    def unplayed(self, name: str, reason: str, now_s: float) -> None:
        """Logs the stop of an item that did not begin."""
        if self._budget.allows(now_s):
            self._stream_line("stop", name, None, bytes=0, reason=reason)

    def _stream_line(self, event: str, name: str, medium: Medium | None, **fields: object) -> None:
        redacted = redact_name(name)
        self.line(
            event,
            stream=redacted.text[:LOGGED_CHARACTERS_MAX],
            key=redacted.key_id or None,
            object=None if medium is None else medium.name,
            **fields,
        )

    def ignored_command(self, name: str, now_s: float) -> None:
        """Logs a command that the server does not have."""
        if self._budget.allows(now_s):
            self.line("ignored", command=name[:LOGGED_CHARACTERS_MAX])

    def fault(self, exc: BaseException) -> None:
        """Logs an internal error."""
        where = traceback.format_exception(exc)[-TRACE_LINES_MAX:]
        self.line("fault", error=repr(exc), trace="".join(where))
