"""The messages around the media of a stream, in the order of Flash Media Server."""

from __future__ import annotations

from streamedge.delivery.rtmp.protocol.amf_values import AmfValue, EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import MessageType
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.messages import StatusLevel
from streamedge.media.medium import Medium, Position


class Announcements:
    """Queues messages of one stream in the engine; the caller sends them.

    Codec headers of media whose types are in ``left_out`` are not sent.

    ``splits_data`` is for FFmpeg, whose demuxer makes a subtitle track of an onMetaData with a
    timestamp, and a data track of every onPlayStatus and Data.Start: players then list tracks that
    the file does not have. It needs none of them, and gets each onMetaData at time 0.
    """

    def __init__(
        self, engine: ServerConnection, stream_id: int, *, splits_data: bool = False
    ) -> None:
        self._engine = engine
        self._stream_id = stream_id
        self._splits_data = splits_data
        self.left_out = frozenset[int]()

    def status(
        self, name: str, code: str, description: str, level: StatusLevel = StatusLevel.STATUS
    ) -> None:
        """onStatus about the stream ``name``."""
        self._engine.stream_status(self._stream_id, level, code, description, details=name)

    def play(self, name: str, *, is_reset: bool) -> None:
        """Media of ``name`` follow. ``is_reset``: they replace what played before."""
        self._begin()
        if is_reset:
            self.status(name, "NetStream.Play.Reset", f"Playing and resetting {name}.")
        self.status(name, "NetStream.Play.Start", f"Started playing {name}.")

    def seek(self, name: str, time_ms: int) -> None:
        """Media from another time follow."""
        stream = self._stream_id
        self._engine.stream_eof(stream)
        self._begin()
        self.status(name, "NetStream.Seek.Notify", f"Seeking {time_ms} (stream ID: {stream}).")
        self.status(name, "NetStream.Play.Start", f"Started playing {name}.")

    def _begin(self) -> None:
        self._engine.stream_is_recorded(self._stream_id)
        self._engine.stream_begin(self._stream_id)

    def samples(self) -> None:
        """What comes between a start or seek and the metadata."""
        self._engine.sample_access(self._stream_id)
        if not self._splits_data:
            self._engine.data_start(self._stream_id)

    def medium(self, medium: Medium, position: Position, time_ms: int) -> None:
        """What a decoder needs before the first frame at ``position``: metadata, codec headers."""
        metadata = {
            name: value
            for name, value in medium.head.metadata.items()
            if isinstance(value, bool | int | float | str)
        }
        self._engine.metadata(
            self._stream_id,
            0 if self._splits_data else time_ms,
            EcmaArray({**metadata, **medium.head.track_maps}),
        )
        for tag_type, body in medium.sequence_headers(position):
            if tag_type in self.left_out:
                continue
            self._engine.media_message(self._stream_id, MessageType(tag_type), time_ms, body)

    def next_item(self, medium: Medium, name: str, time_ms: int, size_bytes: int) -> None:
        """All media of an item were sent; those of the next item, ``name``, follow."""
        self._play_status(
            time_ms,
            "NetStream.Play.Switch",
            f"Switching to {name}.",
            duration=medium.head.duration_ms / 1000,
            bytes=size_bytes,
            details=name,
        )

    def transition(self, name: str) -> None:
        """A switch or swap was accepted."""
        self.status(name, "NetStream.Play.Transition", f"Transitioning to {name}.")

    def transition_complete(self, name: str, time_ms: int) -> None:
        """The media from here on are those of the new stream, ``name``."""
        self._play_status(
            time_ms,
            "NetStream.Play.TransitionComplete",
            f"Transitioned to {name}.",
            details=name,
        )

    def end(self, medium: Medium, name: str, time_ms: int, size_bytes: int) -> None:
        """All media were sent, and nothing else is in the playlist."""
        self._play_status(
            time_ms,
            "NetStream.Play.Complete",
            "All requested media were sent.",
            duration=medium.head.duration_ms / 1000,
            bytes=size_bytes,
        )
        self.stop(name)

    def _play_status(self, time_ms: int, code: str, description: str, **extra: AmfValue) -> None:
        if not self._splits_data:
            self._engine.play_status(self._stream_id, time_ms, code, description, **extra)

    def stop(self, name: str) -> None:
        """No more media follow."""
        self.status(name, "NetStream.Play.Stop", f"Stopped playing {name}.")
        self._engine.stream_eof(self._stream_id)

    def unpublished(self, name: str) -> None:
        """The edge takes the stream away while it plays."""
        self.status(name, "NetStream.Play.UnpublishNotify", f"{name} is no longer available.")
