"""streamedge/media/mp4/sample_table.py: every table, and every kind of wrong table."""

from __future__ import annotations

import tracemalloc

import pytest

from streamedge.errors import MediaError, MediaFault
from streamedge.media.mp4.moov import parse_moov
from streamedge.media.mp4.sample_table import SampleTable, read_sample_table
from tests.support.media.mp4_writer import TrackRecipe, box, moov, table, words


def read(recipe: TrackRecipe, *, always_sync: bool = False) -> SampleTable:
    (track,) = parse_moov(moov(recipe)).tracks
    return read_sample_table(track.stbl, always_sync=always_sync)


def test_samples_of_one_chunk_are_located() -> None:
    samples = read(TrackRecipe())
    assert samples.offset.tolist() == [48, 58, 68]
    assert samples.size_bytes.tolist() == [10, 10, 10]
    assert samples.dts.tolist() == [0, 40, 80]
    assert samples.composition.tolist() == [0, 0, 0]
    assert samples.is_sync.tolist() == [True, True, True]
    assert samples.end == 120


def test_samples_of_chunks_of_several_sizes_are_located() -> None:
    samples = read(
        TrackRecipe(
            stsz=box("stsz", words(0, 0, 5, 1, 2, 3, 4, 5)),
            stts=table("stts", (1, 10), (4, 20)),
            stsc=table("stsc", (1, 2, 1), (3, 1, 1)),
            stco=table("stco", (100,), (50,), (200,)),
        )
    )
    assert samples.offset.tolist() == [100, 101, 50, 53, 200]
    assert samples.dts.tolist() == [0, 10, 30, 50, 70]


def test_64_bit_chunk_offsets_are_read() -> None:
    assert read(TrackRecipe(stco=table("co64", (0, 70)))).offset.tolist() == [70, 80, 90]
    huge = read(TrackRecipe(stco=table("co64", (0xFFFFFFFF, 0xFFFFFFFF))))
    assert int(huge.offset.min()) >= 1 << 60  # past the end of any file


def test_constant_sample_size_is_read() -> None:
    samples = read(TrackRecipe(stsz=box("stsz", words(0, 7, 3))))
    assert samples.offset.tolist() == [48, 55, 62]


@pytest.mark.parametrize(
    ("bits", "sizes"), [(4, bytes([0x12, 0x30])), (8, b"\1\2\3"), (16, b"\0\1\0\2\0\3")]
)
def test_compact_sample_sizes_are_read(bits: int, sizes: bytes) -> None:
    samples = read(TrackRecipe(stsz=box("stz2", words(0, bits, 3), sizes)))
    assert samples.size_bytes.tolist() == [1, 2, 3]


@pytest.mark.parametrize("version", [0, 1])
def test_composition_offsets_are_signed_in_both_versions(version: int) -> None:
    ctts = table("ctts", (1, 80), (2, -40), version=version)
    assert read(TrackRecipe(ctts=ctts)).composition.tolist() == [80, -40, -40]


def test_sync_samples_are_read() -> None:
    recipe = TrackRecipe(stss=table("stss", (1,), (3,)))
    assert read(recipe).is_sync.tolist() == [True, False, True]
    assert read(recipe, always_sync=True).is_sync.tolist() == [True, True, True]


def test_chunks_may_hold_more_than_the_samples() -> None:
    stsc, stco = table("stsc", (1, 2, 1)), table("stco", (100,), (200,), (300,))
    assert read(TrackRecipe(stsc=stsc, stco=stco)).offset.tolist() == [100, 110, 200]


@pytest.mark.parametrize(
    "recipe",
    [
        TrackRecipe(stsz=b""),
        TrackRecipe(stsz=box("stsz", words(0, 0, 4, 10, 10, 10))),
        TrackRecipe(stsz=box("stsz", words(0, 0))),
        TrackRecipe(stsz=box("stz2", words(0, 5, 3), bytes(10))),
        TrackRecipe(stts=b""),
        TrackRecipe(stts=table("stts")),
        TrackRecipe(stts=box("stts", words(0, 9, 3, 40))),
        TrackRecipe(stsc=b""),
        TrackRecipe(stsc=table("stsc")),
        TrackRecipe(stco=b""),
    ],
)
def test_contradictory_tables_are_refused(recipe: TrackRecipe) -> None:
    with pytest.raises(MediaError) as caught:
        read(recipe)
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_short_time_table_continues_with_its_last_value() -> None:
    short = read(TrackRecipe(stts=table("stts", (1, 10), (1, 40))))
    assert (short.dts.tolist(), short.end) == ([0, 10, 50], 90)
    # An entry for 0 samples applies to all that follow.
    assert read(TrackRecipe(stts=table("stts", (1, 10), (0, 5), (9, 40)))).dts.tolist() == [
        0,
        10,
        15,
    ]


def test_negative_duration_is_subtracted_from_the_next_ones() -> None:
    stsz = box("stsz", words(0, 10, 6))
    stts = table("stts", (2, 40), (1, -61), (3, 40))
    samples = read(TrackRecipe(stsz=stsz, stts=stts, stsc=table("stsc", (1, 6, 1))))
    assert samples.dts.tolist() == [0, 40, 80, 81, 101, 121]


def test_samples_without_a_composition_offset_are_shown_when_decoded() -> None:
    samples = read(TrackRecipe(ctts=table("ctts", (1, -40), (1, 0), (1, 0))))
    assert (samples.decode_shift, samples.composed) == (40, 3)
    short = read(TrackRecipe(ctts=table("ctts", (1, -40), (1, 0), (0, 0))))
    assert (short.composition.tolist(), short.composed) == ([-40, 0, -40], 2)
    assert read(TrackRecipe(ctts=table("ctts", (9, 1 << 30), (1, 0), (1, 0)))).composed == 0


def test_sync_samples_that_do_not_exist_are_ignored() -> None:
    assert read(TrackRecipe(stss=table("stss", (1,), (99,)))).is_sync.tolist() == [
        True,
        False,
        False,
    ]
    assert read(TrackRecipe(stss=table("stss", (0,), (1,)))).is_sync.tolist() == [
        True,
        False,
        False,
    ]
    counted_from_0 = read(TrackRecipe(stss=table("stss", (0,), (2,))))
    assert counted_from_0.is_sync.tolist() == [True, False, True]
    for empty in (table("stss"), table("stss", (99,))):
        samples = read(TrackRecipe(stss=empty))
        assert samples.is_sync.all()
        assert not samples.has_sync_flags
    partial = read(TrackRecipe(stss=table("stss", (1,)) + table("stps", (3,))))
    assert partial.is_sync.tolist() == [True, False, True]


def test_chunks_decide_the_number_of_samples() -> None:
    assert read(TrackRecipe(stsc=table("stsc", (1, 2, 1)))).count == 2
    assert read(TrackRecipe(stco=table("stco"))).count == 0
    extra = read(TrackRecipe(stco=table("stco", (48,), (0xC000009D,))))
    assert (extra.count, extra.is_overfull) == (3, True)


@pytest.mark.parametrize(
    "stsc",
    [
        ((2, 1, 1),),
        ((0, 1, 1),),
        ((1, 1, 0),),
        ((1, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (3, 0, 1)),
        ((1, 1, 1), (9, 3, 1)),
    ],
)
def test_unordered_chunk_runs_are_repaired(stsc: tuple[tuple[int, ...], ...]) -> None:
    stco = table("stco", (100,), (200,), (300,))
    samples = read(TrackRecipe(stsc=table("stsc", *stsc), stco=stco))
    assert samples.offset.tolist() == [100, 200, 300]
    assert samples.description.tolist() == [0, 0, 0]


def test_samples_have_the_number_of_their_description() -> None:
    stsc = table("stsc", (1, 1, 1), (2, 1, 3), (3, 1, 2))
    samples = read(TrackRecipe(stsc=stsc, stco=table("stco", (1,), (2,), (3,))))
    assert samples.description.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("recipe", "is_refused"),
    [
        (TrackRecipe(stsz=box("stsz", words(0, 1, 0xFFFFFFFF))), False),
        (
            TrackRecipe(
                stsz=box("stsz", words(0, 1, 0xFFFFFFFF)), stsc=table("stsc", (1, 0xFFFFFFFF, 1))
            ),
            True,
        ),
        (TrackRecipe(stts=table("stts", (0xFFFFFFFF, 1), (0xFFFFFFFF, 0xFFFFFFFF))), False),
        (TrackRecipe(ctts=table("ctts", *[(0xFFFFFFFF, 1)] * 100)), False),
        (
            TrackRecipe(
                stsc=table("stsc", *[(chunk, 0xFFFFFFFF, 1) for chunk in range(1, 101)]),
                stco=table("stco", *[(100,)] * 100),
            ),
            False,
        ),
        (TrackRecipe(stsc=table("stsc", (1, 3, 1), (0xFFFFFFFF, 3, 1))), False),
    ],
    ids=["stsz", "stsz and stsc", "stts", "ctts", "stsc", "first chunk"],
)
def test_huge_counts_allocate_no_memory(recipe: TrackRecipe, is_refused: bool) -> None:
    tracemalloc.start()
    try:
        if is_refused:
            with pytest.raises(MediaError, match="over the limit"):
                read(recipe)
        else:
            assert read(recipe).count == 3
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
