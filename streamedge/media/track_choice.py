"""Chooses the audio tracks of a medium that a viewer gets. Pure.

A stream name's ``audio`` parameter is a language or the number of a track, counted from 0 in the
order of the file. Without it the viewer gets the first enabled track; clients that play multitrack
Enhanced RTMP may get the other tracks too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streamedge.errors import MediaError, MediaFault
from streamedge.media.languages import canonical_language

AUDIO_MAX_CHARACTERS: Final = 35  # the longest usual BCP 47 tag (RFC 5646 §4.4.1)
_NUMBER_MAX_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class TrackChoice:
    """``audio``: a language or a number; empty: the default track. ``is_multitrack``: the other
    audio tracks are sent too, as Enhanced RTMP's multitrack packets.
    """

    audio: str = ""
    is_multitrack: bool = False


DEFAULT_TRACKS: Final = TrackChoice()


def read_choice(audio: str, *, is_multitrack: bool) -> TrackChoice:
    """The choice of a viewer whose stream name has this ``audio`` parameter; empty: none.

    Codes of one language give equal choices. A chosen track is sent alone.
    """
    audio = audio.strip().lower()[: AUDIO_MAX_CHARACTERS + 1]
    if not audio:
        return TrackChoice(is_multitrack=is_multitrack)
    has_region = "-" in audio or "_" in audio
    return TrackChoice(audio.replace("_", "-") if has_region else canonical_language(audio))


class AudioLabel(NamedTuple):
    """What a file says about an audio track. ``language`` is a code or a BCP 47 tag, or "und"."""

    language: str
    is_enabled: bool = True


def choose_audio(labels: Sequence[AudioLabel], audio: str) -> list[int]:
    """The tracks to try, the best first: numbers of ``labels``.

    Raises MediaError NO_SUCH_TRACK, whose message lists the tracks, when none is meant by
    ``audio``.
    """
    numbers = range(len(labels))
    if not audio:
        return sorted(numbers, key=lambda number: not labels[number].is_enabled)
    if audio.isascii() and audio.isdigit():
        number = int(audio) if len(audio) <= _NUMBER_MAX_DIGITS else len(labels)
        if number < len(labels):
            return [number]
        raise no_such_audio(labels, audio)
    exact = [number for number in numbers if labels[number].language.lower() == audio.lower()]
    code = canonical_language(audio)
    same = [number for number in numbers if canonical_language(labels[number].language) == code]
    if not exact and not same:
        raise no_such_audio(labels, audio)
    return exact + [number for number in same if number not in exact]


def no_such_audio(labels: Sequence[AudioLabel], audio: str) -> MediaError:
    """The error for a language or number that the medium does not have."""
    tracks = ", ".join(f"{number} ({label.language})" for number, label in enumerate(labels))
    return MediaError(
        MediaFault.NO_SUCH_TRACK,
        f"There is no audio {audio[:AUDIO_MAX_CHARACTERS]!r}. The audio of this stream: "
        f"{tracks or 'none that can be chosen'}.",
    )
