"""An MP3 in the cache as a medium: its frames are wrapped as FLV tags when they are sent.

The positions of the tags are unknown until the whole MP3 was read, so it is not packaged. It has
few bytes (16 KB a second at 128 kb/s), so wrapping them for each viewer costs little. Times after a
seek follow the head's estimate: exact at a constant rate, otherwise as precise as the Xing table.
"""

from __future__ import annotations

from collections.abc import Callable

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import Reader
from streamedge.media.flv.tags import TagType
from streamedge.media.medium import RUN_MS, End, MediumHead, NeedData, Position, Run
from streamedge.media.mp3 import frames as mp3
from streamedge.media.mp3.head import Mp3Head
from streamedge.media.mp4.codecs import CODEC_ID_MP3
from streamedge.spans import Span

AHEAD_BYTES = 256 * 1024
SEEK_WINDOW_BYTES = 16 * 1024


class Mp3Medium:
    """``reader`` reads the MP3, and is closed with the medium; ``source`` is the first reader.

    The row of a position counts samples.
    """

    def __init__(self, name: str, head: Mp3Head, reader: Reader, source: Reader) -> None:
        self.name = name
        self.result = source.result
        self.is_current = source.is_current
        self.provenance = source.provenance
        self.head = MediumHead(
            duration_ms=head.duration_ms,
            metadata={
                "duration": head.duration_ms / 1000,
                "audiocodecid": CODEC_ID_MP3,
                "audiosamplerate": head.sample_rate,
                "audiodatarate": head.bit_rate / 1000,
                "stereo": head.channels == 2,
                "hasAudio": True,
                "hasVideo": False,
            },
            enhanced=frozenset(),
            has_video=False,
        )
        self._mp3 = head
        self._reader = reader

    async def locate(self, time_ms: int) -> Position:
        time_ms = min(time_ms, max(0, self.head.duration_ms - RUN_MS))
        sample = self._mp3.sample_at(time_ms)
        audio = self._mp3.audio
        if sample == 0:
            return Position(audio.start, 0, 0)
        guess = self._mp3.estimate_position(time_ms)
        size = SEEK_WINDOW_BYTES
        while True:
            window = Span(guess, min(guess + size, audio.end))
            data = await self._reader.read(window)
            offset = mp3.resynchronise(data, is_file_end=window.end == audio.end)
            if offset is not None:
                return Position(guess + offset, self._time_ms(sample), sample)
            if window.end == audio.end:
                return Position(audio.end, self.head.duration_ms, sample)
            size *= 2

    async def locate_after(self, time_ms: int) -> Position:
        return await self.locate(time_ms)

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return ()

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | NeedData | End:
        audio = self._mp3.audio
        if mark.position >= audio.end or (until_ms is not None and mark.time_ms > until_ms):
            return End()
        window_bytes = self._mp3.bit_rate * length_ms // 8000 + 2 * mp3.FRAME_SIZE_MAX_BYTES
        while True:
            window_end = min(mark.position + window_bytes, audio.end)
            ready_end = self._reader.ready_end(mark.position, window_end)
            data = self._reader.copy(Span(mark.position, ready_end))
            frames = mp3.frames(data, is_file_end=ready_end == audio.end)
            if frames.spans:
                break
            if ready_end == audio.end:
                return End()
            if ready_end < window_end:
                return NeedData(Span(ready_end, min(ready_end + AHEAD_BYTES, audio.end)))
            # A window without frames: continue after it.
            mark = mark._replace(position=mark.position + max(1, frames.end))
        frame_ms = 1000 * self._mp3.samples_per_frame / self._mp3.sample_rate
        spans = frames.spans[: int(length_ms / frame_ms) + 1]
        if until_ms is not None:
            spans = spans[: max(1, int((until_ms - mark.time_ms) / frame_ms) + 1)]
        end = spans[-1].end
        sample = mark.row + len(spans) * self._mp3.samples_per_frame
        ahead = Span(mark.position + end, min(mark.position + end + AHEAD_BYTES, audio.end))
        if not self._reader.is_complete(ahead.start):
            self._reader.prefetch(ahead, AHEAD_BYTES // 2)
        return Run(
            self._reader,
            Span(mark.position, mark.position + end),
            mp3.as_tags(data, spans, mark.row),
            TagType.AUDIO if len(spans) == 1 else None,
            False,
            mark.time_ms,
            Position(mark.position + end, self._time_ms(sample), sample),
        )

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        return self._reader.when_ready(span, callback, eager=True, lead_bytes=AHEAD_BYTES // 2)

    def close(self) -> None:
        self._reader.close()

    def _time_ms(self, sample: int) -> int:
        rate = self._mp3.sample_rate
        return (sample * 1000 + rate // 2) // rate
