"""Records of multipart uploads: on disk before a part is sent, abandoned by dead processes only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamedge.origin import upload_records
from streamedge.origin.upload_records import UploadRecords

UPLOAD = ("dir/film é.mp4", "an id/+=")


@pytest.fixture
def records(tmp_path: Path) -> UploadRecords:
    return UploadRecords(tmp_path / "uploads", "s3 bucket")


def test_running_upload_is_not_abandoned(records: UploadRecords) -> None:
    record = records.begin(*UPLOAD)
    assert list(records.abandoned()) == []
    record.remove()
    assert list(records.abandoned()) == []


def test_upload_of_a_killed_process_is_found(records: UploadRecords, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from streamedge.origin.upload_records import UploadRecords\n"
        "record = UploadRecords(Path(sys.argv[1]), 's3 bucket').begin(*sys.argv[2:])\n"
        "print('begun', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "uploads"), *UPLOAD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert list(records.abandoned()) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    (record,) = records.abandoned()
    assert (record.name, record.upload_id, record.was_aborted) == (*UPLOAD, False)
    assert list(records.abandoned()) == []  # the first caller holds its lock
    record.release(aborted=True)
    (again,) = records.abandoned()
    assert (again.name, again.upload_id, again.was_aborted) == (*UPLOAD, True)
    again.remove()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_upload_of_another_bucket_is_not_claimed(records: UploadRecords, tmp_path: Path) -> None:
    records.begin(*UPLOAD).release()
    other = UploadRecords(tmp_path / "uploads", "s3 other")
    assert list(other.abandoned()) == []
    assert [record.name for record in records.abandoned()] == [UPLOAD[0]]


def test_invalid_record_file_is_ignored(
    records: UploadRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "uploads"
    records.begin(*UPLOAD).remove()
    for name, content in (("a", b""), ("b", b"[]"), ("c", b"\xff"), (".torn", b"{")):
        (folder / name).write_bytes(content)
    assert list(records.abandoned()) == []
    assert (folder / ".torn").exists()
    monkeypatch.setattr(upload_records, "TORN_AGE_S", -1.0)
    assert list(records.abandoned()) == []
    assert sorted(os.listdir(folder)) == ["a", "b", "c"]


def test_folder_that_cannot_be_written_leaves_nothing(
    records: UploadRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: bytes) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(upload_records, "write_all", full)
    with pytest.raises(OSError, match="full"):
        records.begin(*UPLOAD)
    assert list((tmp_path / "uploads").iterdir()) == []
