"""streamedge/media/containers/framing.py: frames are read as they were written, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.media.containers.framing import (
    FRAME_BYTES_MAX,
    FRAME_HEADER,
    READ_BODY,
    READ_BYTES_MAX,
    FrameKind,
    frame,
    parse_header,
    parse_read,
)


@given(st.sampled_from(FrameKind), st.binary(max_size=100))
def test_frame_is_read_as_it_was_written(kind: FrameKind, body: bytes) -> None:
    data = frame(kind, body)
    header = parse_header(data[: FRAME_HEADER.size])
    assert (header.kind, header.size_bytes) == (kind, len(body))
    assert data[FRAME_HEADER.size :] == body


@given(st.binary(min_size=FRAME_HEADER.size, max_size=FRAME_HEADER.size))
def test_any_header_is_read_or_refused(data: bytes) -> None:
    try:
        assert parse_header(data).size_bytes <= FRAME_BYTES_MAX
    except ValueError:
        return


@given(st.binary(max_size=14))
def test_any_read_is_bounded_or_refused(body: bytes) -> None:
    try:
        offset, size_bytes = parse_read(body)
    except ValueError:
        return
    assert offset >= 0
    assert 0 < size_bytes <= READ_BYTES_MAX
    assert READ_BODY.pack(offset, size_bytes) == body


def test_frame_that_is_too_large_is_not_made() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        frame(FrameKind.PART, bytes(FRAME_BYTES_MAX + 1))
