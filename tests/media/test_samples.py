"""The encoders of the tests leave the test process as it was."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.media.media_samples import same_scheduling


def test_encoding_leaves_the_scheduling_of_the_process(media: Callable[[str], bytes]) -> None:
    with same_scheduling():
        before = os.sched_getscheduler(0)
        assert media("av1-opus")
        assert os.sched_getscheduler(0) == before
