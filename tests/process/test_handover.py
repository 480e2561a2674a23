"""What a supervisor hands over: documents, descriptors, and the numbers of workers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.schema.config import Config, EdgeConfig
from streamedge.ops.metrics import Counter, Counts, SharedMetrics, fold_totals
from streamedge.ops.shared_buffer import SharedBuffer
from streamedge.ops.shared_words import SharedWords
from streamedge.process.handover import (
    FORMAT,
    HandedChild,
    HandedSockets,
    Handover,
    HandoverError,
    TrialRequest,
    decode_handover,
    free_slots,
    receive,
    trial_request,
)
from streamedge.process.upgrade.all_modules import module_names
from tests.support.patience import PATIENCE_S

numbers = st.integers(0, 1 << 20)
tuples = st.lists(numbers, max_size=4).map(tuple)
handovers = st.builds(
    Handover,
    cache=st.text(),
    log=st.text(),
    folder_lock=st.none() | numbers,
    lifeline=numbers,
    admin=st.tuples(st.text(), numbers),
    sockets=st.lists(st.builds(HandedSockets, st.text(), st.text(), numbers, tuples)).map(tuple),
    tunnel_addresses=st.none() | numbers,
    children=st.lists(
        st.builds(HandedChild, st.text(), numbers, numbers, st.booleans(), numbers, numbers)
    ).map(tuple),
    heartbeat_names=st.lists(st.text()).map(tuple),
    wakeups=tuples,
    metrics=st.lists(tuples).map(tuple),
    past_metrics=st.lists(tuples).map(tuple),
    fleet=st.none() | numbers,
    live_edges=tuples,
    upgrade_status=tuples,
    viewers=tuples,
    started_s=st.floats(0, 1e10),
)


@given(handovers)
def test_document_of_a_handover_is_read_as_it_was_written(handover: Handover) -> None:
    assert decode_handover(handover.encode()) == handover


# The trial compares formats while the running program still serves; the documents are exchanged
# when it no longer does. So a change of the fields needs the next number.
FIELDS_OF_FORMAT = {
    3: "cache log folder_lock lifeline admin sockets tunnel_addresses children heartbeat_names"
    " heartbeats log_memory wakeups replicator metrics past_metrics fleet live_edges upgrade_status"
    " history viewers started_s config",
}


def test_format_has_a_number_for_its_fields() -> None:
    assert [field.name for field in fields(Handover)] == FIELDS_OF_FORMAT[FORMAT].split()


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"format": 3}', b'{"format": 0}', b'{"format": 3, "more": 1}']
)
def test_other_document_is_refused(text: bytes) -> None:
    with pytest.raises(HandoverError):
        decode_handover(text)


def test_normal_start_receives_nothing() -> None:
    environment = {"PATH": "/bin"}
    assert receive(environment) is None
    assert trial_request(environment) is None


def test_trial_of_another_format_is_refused() -> None:
    with pytest.raises(HandoverError, match="restart"):
        trial_request({"STREAMEDGE_TRIAL": '{"format": 0}'})


def test_trial_refuses_what_only_a_restart_applies(tmp_path: Path) -> None:
    config = Config(edge=EdgeConfig(cache=tmp_path))
    request = TrialRequest(str(tmp_path), 2, -1)
    request.check(config, 2)
    request.check(config, 3)
    with pytest.raises(HandoverError, match=r"edge\.workers"):
        request.check(config, 1)
    with pytest.raises(HandoverError, match=r"edge\.cache"):
        TrialRequest("elsewhere", 2, -1).check(config, 2)


@given(st.sets(st.integers(0, 63)), st.integers(0, 64))
def test_slots_are_free_and_different(used: set[int], count: int) -> None:
    if count > 64 - len(used):
        with pytest.raises(HandoverError, match="restart"):
            free_slots(sorted(used), count, 64)
        return
    slots = free_slots(sorted(used), count, 64)
    assert len(set(slots)) == count
    assert not used & set(slots)


def test_memory_is_the_same_after_it_was_adopted() -> None:
    words = SharedWords("test", 2)
    adopted = SharedWords.adopt(os.dup(words.descriptor))
    words.words[1] = 7
    assert adopted.words[1] == 7
    buffer = SharedBuffer("test")
    other = SharedBuffer.adopt([os.dup(one) for one in buffer.descriptors])
    buffer.write(b"first")
    assert other.read() == b"first"
    other.write(b"second")
    assert buffer.read() == b"second"
    for each in (words, adopted, buffer, other):
        each.close()


def test_totals_of_ended_processes_stay_in_the_sums() -> None:
    before = SharedMetrics(2)
    for number in range(2):
        counts = Counts()
        counts.publish_in(before.part(number))
        counts.add(Counter.PLAYS, "Hit", 3)
        counts.flush()
    folded = fold_totals(before.parts())
    after = SharedMetrics(1, [folded])
    counts = Counts()
    counts.publish_in(after.part(0))
    counts.add(Counter.PLAYS, "Hit", 1)
    counts.flush()
    assert b'streamedge_plays_total{cache="Hit"} 7.0' in after.exposition()
    before.close()
    after.close()


def test_all_modules_of_processes_are_imported_before_an_upgrade_replaces_files() -> None:
    names = module_names()
    assert "streamedge.process.control" in names
    assert "streamedge.shared_log.redis.engine" in names
    assert not any(name.startswith("streamedge.cli") for name in names)
    assert not any("helper" in name for name in names)  # programs of their own


def test_workers_import_no_library_of_the_control_process_or_of_media_helpers() -> None:
    code = (
        "import sys; sys.modules['av'] = None;"  # as without the extra ``media``
        "from streamedge.process.upgrade.all_modules import import_all_of_workers;"
        "import streamedge.process.worker; import_all_of_workers();"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    imported = set(done.stdout.split())
    assert "numpy" in imported
    assert imported.isdisjoint({"starlette", "uvicorn", "botocore", "redis", "rich"})
