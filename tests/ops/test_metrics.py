"""streamedge/ops/metrics.py: numbers of several processes, summed.

prometheus-client settles where it keeps its numbers when it is imported, once for a process: so
every part here is a process of its own, as at the edge.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streamedge.ops.metrics import Counter, Counts, Gauge, forget_process

COUNTING = """
import os, sys
from pathlib import Path
from streamedge.ops.metrics import Counter, Counts, Gauge
counts = Counts()
counts.publish_in(Path(sys.argv[1]))
counts.add(Counter.SENT_BYTES, "http", 10)
counts.add(Counter.SENT_BYTES, "http", int(sys.argv[2]))
counts.add(Counter.SENT_BYTES, "rtmp")
counts.gauges[Gauge.VIEWERS] = int(sys.argv[2])
counts.flush()
counts.flush()
assert counts.gathered(Counter.SENT_BYTES, "http") == 0
counts.add(Counter.SENT_BYTES, "http", 1000)
counts.gauges[Gauge.VIEWERS] += 1
counts.flush()
counts.add(Counter.SENT_BYTES, "http", 1_000_000)
print(os.getpid(), flush=True)
sys.stdin.read()
os._exit(1)  # as if killed: what has not been flushed is lost
"""
TELLING = """
import sys
from pathlib import Path
from streamedge.ops.metrics import exposition
sys.stdout.buffer.write(exposition(Path(sys.argv[1])))
"""


def count_in_process(folder: Path, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COUNTING, str(folder), str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def exposed(folder: Path) -> dict[str, float]:
    """What Prometheus would read: sample and value."""
    told = subprocess.run(
        [sys.executable, "-c", TELLING, str(folder)], capture_output=True, check=True, timeout=60
    )
    rows = [row for row in told.stdout.decode().splitlines() if not row.startswith("#")]
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in rows}


def test_processes_are_summed_and_the_ended_keep_their_counters(tmp_path: Path) -> None:
    processes = [count_in_process(tmp_path, number) for number in (1, 2)]
    pids = []
    for process in processes:
        assert process.stdout is not None
        pids.append(int(process.stdout.readline()))
    assert pids == [process.pid for process in processes]
    both = exposed(tmp_path)
    assert both['streamedge_sent_bytes_total{protocol="http"}'] == 2 * 1010 + 3
    assert both['streamedge_sent_bytes_total{protocol="rtmp"}'] == 2
    assert both["streamedge_viewers"] == 2 + 3

    processes[0].communicate(timeout=60)
    forget_process(tmp_path, pids[0])
    one = exposed(tmp_path)
    assert one['streamedge_sent_bytes_total{protocol="http"}'] == 2 * 1010 + 3
    assert one["streamedge_viewers"] == 3

    processes[1].communicate(timeout=60)
    forget_process(tmp_path, pids[1])
    assert "streamedge_viewers" not in exposed(tmp_path)


def test_counts_gather_by_counter_and_label() -> None:
    counts = Counts()
    assert counts.gathered(Counter.RESPONSES, "Hit") == 0
    counts.add(Counter.RESPONSES, "Hit")
    counts.add(Counter.RESPONSES, "Hit", 2)
    counts.add(Counter.RESPONSES, "Miss", 5)
    counts.add(Counter.PLAYS, "Hit", 7)
    assert counts.gathered(Counter.RESPONSES, "Hit") == 3
    assert counts.gathered(Counter.RESPONSES, "Miss") == 5
    assert counts.gathered(Counter.PLAYS, "Hit") == 7


def test_every_metric_has_a_name_of_its_own() -> None:
    names = [each.metric for each in (*Counter, *Gauge)]
    assert len(names) == len(set(names))
    assert all(name.startswith("streamedge_") for name in names)


def test_forgetting_takes_no_other_processs_gauges(tmp_path: Path) -> None:
    for name in ("gauge_livesum_12.db", "gauge_livesum_112.db", "counter_12.db"):
        (tmp_path / name).touch()
    forget_process(tmp_path, 12)
    forget_process(tmp_path, 13)
    assert {file.name for file in tmp_path.iterdir()} == {"gauge_livesum_112.db", "counter_12.db"}
