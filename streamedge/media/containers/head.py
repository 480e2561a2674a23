"""The head of a container: its tracks and times, as the helper describes them in JSON. Pure.

The helper reads bytes from outside, so its JSON is checked like any other input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.flv import tags as flv
from streamedge.media.medium import MediumHead
from streamedge.media.mp4.codecs import CodecConfiguration, TrackKind
from streamedge.media.script_data import ScriptObject
from streamedge.media.track_choice import AudioLabel, TrackChoice, choose_audio

HEAD_BYTES_MAX = 4 << 20

_KINDS = {"video": TrackKind.VIDEO, "audio": TrackKind.AUDIO}


@dataclass(frozen=True, slots=True)
class ContainerTrack:
    """``index``: of the stream in the container. ``codec`` is None where the track cannot be
    played, for the ``reason``.
    """

    index: int
    kind: TrackKind
    label: AudioLabel
    codec: CodecConfiguration | None
    frame_rate: float
    reason: str


@dataclass(frozen=True, slots=True)
class ContainerHead:
    """``duration_ms`` is 0 where the container does not have it."""

    duration_ms: int
    segment_ms: int
    tracks: tuple[ContainerTrack, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Why tracks are not played."""
        return tuple(
            f"a track that cannot be played: {track.reason}"
            for track in self.tracks
            if track.codec is None
        )


@dataclass(frozen=True, slots=True)
class ChosenTracks:
    """At least one of both. ``selection`` names the chosen audio if it is not the default one."""

    video: ContainerTrack | None
    audio: ContainerTrack | None
    selection: str

    @property
    def indexes(self) -> tuple[int, ...]:
        """The tracks' indexes in the container, video first."""
        return tuple(track.index for track in (self.video, self.audio) if track is not None)

    @property
    def codecs(self) -> tuple[CodecConfiguration, ...]:
        tracks = (track for track in (self.video, self.audio) if track is not None)
        return tuple(track.codec for track in tracks if track.codec is not None)


def parse_head(data: bytes) -> ContainerHead:
    """Reads the helper's JSON. Raises MediaError."""
    try:
        value = json.loads(data)
        return ContainerHead(
            _number(value["duration_ms"], 1 << 31),
            max(1, _number(value["segment_ms"], 60_000)),
            tuple(_track(track) for track in value["tracks"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise invalid("the helper made an invalid head") from exc


def choose_tracks(head: ContainerHead, choice: TrackChoice) -> ChosenTracks:
    """The first playable track of each kind, default ones first, or the audio of ``choice``.

    Raises MediaError NO_SUPPORTED_TRACK or NO_SUCH_TRACK.
    """
    sounds = [track for track in head.tracks if track.kind is TrackKind.AUDIO]
    labels = [track.label for track in sounds]
    videos = [track for track in head.tracks if track.kind is TrackKind.VIDEO]
    videos.sort(key=lambda track: not track.label.is_enabled)
    video = next((track for track in videos if track.codec is not None), None)
    audio = _first_playable(sounds, choose_audio(labels, choice.audio))
    if choice.audio and audio is None:
        reasons = "; ".join(head.faults)
        raise MediaError(
            MediaFault.NO_SUPPORTED_TRACK,
            f"the chosen audio {choice.audio!r} cannot be played: {reasons}",
        )
    if video is None and audio is None:
        names = ", ".join(track.reason for track in head.tracks) or "no audio or video at all"
        raise MediaError(
            MediaFault.NO_SUPPORTED_TRACK, f"the file has no track that can be played: {names}"
        )
    default = _first_playable(sounds, choose_audio(labels, ""))
    selection = "" if audio is default or audio is None else f"audio{sounds.index(audio)}"
    return ChosenTracks(video, audio, selection)


def medium_head(head: ContainerHead, chosen: ChosenTracks) -> MediumHead:
    """What players get before the first frame; the fields are those of a packaged MP4."""
    values: ScriptObject = {"duration": head.duration_ms / 1000}
    video = None if chosen.video is None else chosen.video.codec
    audio = None if chosen.audio is None else chosen.audio.codec
    if chosen.video is not None and video is not None:
        values |= {
            "width": video.width,
            "height": video.height,
            "framerate": chosen.video.frame_rate,
            "videocodecid": flv.codec_id(video),
        }
    if audio is not None:
        values |= {
            "audiocodecid": flv.codec_id(audio),
            "audiosamplerate": audio.sample_rate,
            "audiosamplesize": 16,
            "stereo": audio.channels == 2,
        }
    values |= {"hasVideo": video is not None, "hasAudio": audio is not None}
    return MediumHead(
        duration_ms=head.duration_ms,
        metadata=values,
        enhanced=frozenset(codec.four_cc for codec in chosen.codecs if codec.classic_id is None),
        has_video=video is not None,
    )


def _first_playable(
    sounds: Sequence[ContainerTrack], numbers: Sequence[int]
) -> ContainerTrack | None:
    return next((sounds[number] for number in numbers if sounds[number].codec is not None), None)


def _track(value: dict[str, Any]) -> ContainerTrack:
    kind = _KINDS[value["kind"]]
    label = AudioLabel(_text(value["language"]), value["is_default"] is True)
    codec = None
    if "reason" not in value:
        record = value["record"]
        codec = CodecConfiguration(
            kind,
            _four_cc(value["four_cc"]),
            None if value["classic_id"] is None else _number(value["classic_id"], 15),
            None if record is None else bytes.fromhex(record),
            width=_number(value["width"], 1 << 20),
            height=_number(value["height"], 1 << 20),
            sample_rate=_number(value["sample_rate"], 1 << 30),
            channels=_number(value["channels"], 255),
        )
    rate = float(value.get("frame_rate", 0))
    return ContainerTrack(
        _number(value["index"], 1 << 16),
        kind,
        label,
        codec,
        rate if 0 <= rate <= 1e6 else 0.0,
        _text(value.get("reason", "")),
    )


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a number up to {most}")
    return value


def _text(value: object) -> str:
    text = str(value)[:300]
    return "".join(character if character.isprintable() else "?" for character in text)


def _four_cc(value: str) -> str:
    if len(value) != 4 or not value.isascii():
        raise ValueError(f"{value!r} is not a FourCC")
    return value
