"""Records on disk of this edge's running multipart uploads, for cleanup after a crash.

    <folder>/<token>           an upload: its origin's identity, object and id, as JSON
    <folder>/<token>.aborted   an upload that was aborted once: late parts may have arrived since
    <folder>/.<token>          a record that is being written

A process locks the files of its uploads, and the kernel releases the locks when the process ends.
So a file that is not locked is an abandoned upload. All functions here block.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from streamedge.files import sync_folder
from streamedge.origin.spooling import write_all

TORN_AGE_S = 3600.0  # far longer than it takes to write a record

_ABORTED = ".aborted"
_DOCUMENT_MAX_BYTES = 64 << 10
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class UploadRecord:
    """One upload of the object ``name``; locked until it is removed or released."""

    def __init__(self, path: Path, descriptor: int, name: str, upload_id: str) -> None:
        self.name = name
        self.upload_id = upload_id
        self._path = path
        self._descriptor = descriptor

    @property
    def was_aborted(self) -> bool:
        """Whether an earlier abort has succeeded."""
        return self._path.name.endswith(_ABORTED)

    def remove(self) -> None:
        """Deletes the record of an upload that has ended. Raises OSError."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        finally:
            os.close(self._descriptor)

    def release(self, *, aborted: bool = False) -> None:
        """Unlocks the record for the next cleanup, by any process. Raises OSError."""
        try:
            if aborted:
                os.rename(self._path, self._path.with_name(f"{self._path.name}{_ABORTED}"))
        finally:
            os.close(self._descriptor)


class UploadRecords:
    """The records of one origin, in a folder that all origins share.

    ``identity`` identifies the bucket, independent of its name in the config.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def begin(self, name: str, upload_id: str) -> UploadRecord:
        """Returns when the record of a new upload is on disk. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(16)
        path, new = self._folder / token, self._folder / f".{token}"
        descriptor = os.open(new, _NEW_FILE, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            document = {"origin": self._identity, "name": name, "upload_id": upload_id}
            write_all(descriptor, json.dumps(document).encode())
            os.fsync(descriptor)
            os.rename(new, path)  # complete and locked
            sync_folder(self._folder)
        except BaseException:
            for file in (new, path):
                with contextlib.suppress(OSError):
                    os.unlink(file)
            os.close(descriptor)
            raise
        return UploadRecord(path, descriptor, name, upload_id)

    def abandoned(self) -> Iterator[UploadRecord]:
        """The abandoned uploads, each locked for the caller. Raises OSError.

        In random order, so that an upload that cannot be aborted does not block the others.
        """
        try:
            paths = list(self._folder.iterdir())
        except FileNotFoundError:
            return
        random.shuffle(paths)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                if not path.name.startswith("."):
                    record = self._claim(path)
                    if record is not None:
                        yield record
                elif path.stat().st_mtime < time.time() - TORN_AGE_S:
                    path.unlink()

    def _claim(self, path: Path) -> UploadRecord | None:
        """The record in a file, locked; None if it is in use, removed or of another origin."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        is_claimed = False
        try:
            document = json.loads(os.pread(descriptor, _DOCUMENT_MAX_BYTES, 0))
            # Read before it is locked: the cleanup of its own origin must find it unlocked.
            if document["origin"] != self._identity:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():  # it has ended meanwhile
                return None
            is_claimed = True
            return UploadRecord(path, descriptor, str(document["name"]), str(document["upload_id"]))
        except (BlockingIOError, ValueError, KeyError, TypeError):
            return None
        finally:
            if not is_claimed:
                os.close(descriptor)
