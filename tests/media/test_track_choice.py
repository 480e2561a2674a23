"""streamedge/media/track_choice.py and languages.py: which audio a viewer gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.languages import canonical_language, packed_language
from streamedge.media.track_choice import AudioLabel, TrackChoice, choose_audio, read_choice

LABELS = (AudioLabel("deu", False), AudioLabel("eng"), AudioLabel("pt-BR"), AudioLabel("ger"))


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        ("", [1, 2, 3, 0]),
        ("0", [0]),
        ("3", [3]),
        ("eng", [1]),
        ("en", [1]),
        ("EN-us", [1]),
        ("de", [0, 3]),
        ("ger", [3, 0]),
        ("deu", [0, 3]),
        ("por", [2]),
        ("pt-br", [2]),
    ],
)
def test_audio_is_chosen_by_language_or_number(audio: str, expected: list[int]) -> None:
    assert choose_audio(LABELS, audio) == expected


@pytest.mark.parametrize("audio", ["4", "-1", "fra", "99999999999999999999", "²", "x" * 5000])
def test_wrong_choice_lists_the_tracks(audio: str) -> None:
    with pytest.raises(MediaError, match=r"0 \(deu\), 1 \(eng\), 2 \(pt-BR\), 3 \(ger\)") as failed:
        choose_audio(LABELS, audio)
    assert failed.value.fault is MediaFault.NO_SUCH_TRACK
    assert len(str(failed.value)) < 300


@pytest.mark.parametrize("codes", ["de deu ger", "fr fra fre", "zh zho chi", "el ell gre"])
def test_codes_of_one_language_are_equal(codes: str) -> None:
    choices = {read_choice(code.upper(), is_multitrack=False) for code in codes.split()}
    assert len(choices) == 1
    assert {canonical_language(f"{code}-XX") for code in codes.split()} == {codes.split()[1]}


def test_chosen_track_is_sent_alone() -> None:
    assert read_choice("deu", is_multitrack=True) == TrackChoice("deu")
    assert read_choice("", is_multitrack=True) == TrackChoice(is_multitrack=True)
    assert read_choice(" ", is_multitrack=False) == TrackChoice()


@pytest.mark.parametrize(
    ("number", "language"),
    [
        (0x10B5, "deu"),
        (0x15C7, "eng"),
        (0x55C4, "und"),
        (2, "deu"),
        (0x3FF, "und"),
        (0x7FFF, "und"),
    ],
)
def test_mdhd_language_is_read(number: int, language: str) -> None:
    assert packed_language(number) == language


@given(st.integers(0, 0xFFFF))
def test_any_mdhd_language_is_three_letters(number: int) -> None:
    language = packed_language(number)
    assert len(language) == 3
    assert language.isalpha()


@given(
    st.lists(st.builds(AudioLabel, st.text(max_size=5), st.booleans()), max_size=4),
    st.text(max_size=6),
)
def test_any_choice_is_a_track_or_a_named_error(labels: list[AudioLabel], audio: str) -> None:
    try:
        numbers = choose_audio(labels, audio)
    except MediaError:
        return
    assert numbers or not labels
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(len(labels)))
