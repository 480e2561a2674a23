"""The film of the scripted server, and the error of a read of it."""

from __future__ import annotations

import pytest

from streamedge.errors import OriginError
from streamedge.origin import Origin, Version
from streamedge.spans import Span
from tests.support.origins.scripted_origin import Pattern, read_all

FILM = Pattern(1_000_000, seed=7)
FILM_VERSION = Version('"v1"', FILM.size_bytes, 1_700_000_000)


async def failure_of(
    origin: Origin, span: Span | None = None, *, if_match: Version | None = None
) -> OriginError:
    """The error of a read of film.mp4 to its end."""
    with pytest.raises(OriginError) as caught:
        await read_all(await origin.read("film.mp4", span, if_match=if_match))
    return caught.value
