"""Blocks of compressed lines: any gzip reader reads them, and a cut one is left out."""

from __future__ import annotations

import gzip
import io

from hypothesis import given
from hypothesis import strategies as st

from streamedge.logs.blocks import compress_block, count_lines, whole_blocks

PIECES = st.lists(st.binary(max_size=300).map(lambda text: text + b"\n"), max_size=6)


@given(st.lists(PIECES, min_size=1, max_size=4), st.data())
def test_whole_blocks_have_their_lines_wherever_the_file_is_cut(
    groups: list[list[bytes]], data: st.DataObject
) -> None:
    blocks = [compress_block(pieces) for pieces in groups]
    file = b"".join(blocks)
    assert gzip.decompress(file) == b"".join(map(b"".join, groups))
    end = data.draw(st.integers(0, len(file)))
    whole = list(whole_blocks(io.BytesIO(file[:end])))
    assert whole == blocks[: len(whole)]
    assert (
        len(b"".join(whole))
        <= end
        < len(b"".join(blocks[: len(whole) + 1])) + (len(whole) == len(blocks))
    )
    for block, pieces in zip(whole, groups, strict=False):
        assert count_lines(block) == b"".join(pieces).count(b"\n")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_blocks_are_left_out(data: bytes) -> None:
    block = compress_block([b"a\n"])
    assert list(whole_blocks(io.BytesIO(block + data.lstrip(b"\x1f")))) == [block]
