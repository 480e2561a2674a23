"""The announced head: one position that all processes of an edge share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from streamedge.control.announced_head import FILE_NAME, AnnouncedHead
from streamedge.control.position import UNKNOWN_POSITION, position_at


def test_published_position_is_visible_in_other_processes(tmp_path: Path) -> None:
    head = AnnouncedHead(tmp_path)
    assert head.position == UNKNOWN_POSITION
    child = os.fork()
    if child == 0:
        AnnouncedHead(tmp_path).publish(position_at(7, 3))
        os._exit(0)
    os.waitpid(child, 0)
    assert head.position == position_at(7, 3)
    head.close()
    assert AnnouncedHead(tmp_path).position == position_at(7, 3)  # at the next start too
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_position_decreases_only_for_another_log(tmp_path: Path) -> None:
    head = AnnouncedHead(tmp_path)
    head.publish(position_at(7, 3))
    head.publish(position_at(7, 2))
    assert head.position == position_at(7, 3)
    head.publish(position_at(6, 1))
    assert head.position == position_at(6, 1)


def test_unusable_folder_is_tried_again(tmp_path: Path) -> None:
    head = AnnouncedHead(tmp_path / "later")
    assert head.position == UNKNOWN_POSITION
    assert not head.publish(position_at(7, 3))
    assert not head.has_resources
    (tmp_path / "later").mkdir()
    assert head.publish(position_at(7, 3))
    head.record_resources(has_resources=True)
    assert (head.position, head.has_resources) == (position_at(7, 3), True)


def test_replaced_file_is_opened_again(tmp_path: Path) -> None:
    head = AnnouncedHead(tmp_path)
    head.publish(position_at(7, 3))
    (tmp_path / FILE_NAME).unlink()
    other = AnnouncedHead(tmp_path)
    other.publish(position_at(8, 1))
    assert head.position == position_at(7, 3)
    head.refresh()
    assert head.position == position_at(8, 1)
