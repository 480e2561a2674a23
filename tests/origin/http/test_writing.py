"""Writes to an HTTP server: what is refused before a request is sent."""

from __future__ import annotations

from typing import cast

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import Upstream
from streamedge.origin.http.writing import SiteWriter
from streamedge.origin.writing import Write


async def test_check_refuses_a_name_that_no_path_can_have() -> None:
    writer = SiteWriter(cast(Upstream, None))
    await writer.check(Write("PUT", "a page?", (("If-Match", '"0"'),), 5))
    for name in ("a/../b", ".."):
        with pytest.raises(OriginError) as failure:
            await writer.check(Write("DELETE", name))
        assert failure.value.failure is OriginFailure.NOT_FOUND
