"""The calls of getStreamLength: the duration of a stream that the client will play."""

from __future__ import annotations

from streamedge.cache.reader import CacheResult
from streamedge.delivery.rtmp.playback.player_context import PlayerContext
from streamedge.delivery.rtmp.protocol.events import GetStreamLength
from streamedge.delivery.rtmp.streams import RefusalError
from streamedge.media.medium import Medium

FIRST_RESULTS_MAX = 64  # cache results of getStreamLength that wait for a play
LENGTH_CALLS_MAX = 4  # concurrent getStreamLength calls


class LengthCalls:
    """The calls of one session, and the cache results of the objects that they have opened."""

    __slots__ = ("_context", "_first_results", "_running")

    def __init__(self, context: PlayerContext) -> None:
        self._context = context
        self._running = 0
        self._first_results: dict[str, CacheResult] = {}  # by object

    def first_result(self, medium: Medium) -> CacheResult:
        """The cache result of the viewer's first open of the medium, which a call may have made."""
        return self._first_results.pop(medium.name, medium.result)

    def drop(self) -> None:
        """Drops the session, which has ended."""
        self._context = None  # type: ignore[assignment]  # no command comes any more

    def handle(self, event: GetStreamLength) -> None:
        """Answers a call, in a task of its own."""
        if self._running >= LENGTH_CALLS_MAX:
            self._context.engine.call_error(
                event.transaction,
                f"More than {LENGTH_CALLS_MAX} calls at one time.",
            )
            return
        self._running += 1
        self._context.spawn(self._respond(event))

    async def _respond(self, event: GetStreamLength) -> None:
        engine = self._context.engine
        try:
            medium = await self._context.open_medium(event.name)
        except RefusalError as exc:
            engine.call_error(event.transaction, str(exc), code=exc.code)
        else:
            engine.call_result(event.transaction, medium.head.duration_ms / 1000)
            if (
                medium.result is not CacheResult.HIT
                and len(self._first_results) < FIRST_RESULTS_MAX
            ):
                self._first_results[medium.name] = medium.result
            medium.close()
        finally:
            self._running -= 1
        self._context.push()
        self._context.after_refusal()
