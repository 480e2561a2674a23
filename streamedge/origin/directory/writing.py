"""Writes to an origin that is a folder of this machine.

A file is replaced atomically: the body is written to a new file beside it, verified, synced to
disk, and renamed. What a file system cannot store (media type, metadata) is dropped. Links never
lead a write out of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.checksums import Verifier
from streamedge.origin.directory.origin import version_of
from streamedge.origin.names import object_key
from streamedge.origin.spooling import gather, in_thread, write_all
from streamedge.origin.upload import Upload
from streamedge.origin.writing import (
    HeaderFields,
    Write,
    WriteRefusedError,
    WriteResponse,
    refuse,
    require_condition,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_PREFIX = ".streamedge-new-"

_ERRNO_REFUSALS = {
    errno.EACCES: (403, "AccessDenied"),
    errno.EPERM: (403, "AccessDenied"),
    errno.EROFS: (403, "AccessDenied"),
    errno.EISDIR: (409, "NameIsFolder"),
    errno.ENOTDIR: (409, "FolderIsFile"),
    errno.ELOOP: (409, "FolderIsLink"),
    errno.ENAMETOOLONG: (400, "KeyTooLongError"),
    errno.ENOSPC: (507, "InsufficientStorage"),
    errno.EDQUOT: (507, "InsufficientStorage"),
    errno.EFBIG: (413, "EntityTooLarge"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """The directory entry of an object: an open folder and a name in it."""

    folder: int
    name: str

    def status(self) -> os.stat_result | None:
        """The status of a regular file, or None; links are not followed. Raises OSError."""
        try:
            status = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return status if stat.S_ISREG(status.st_mode) else None

    def etag(self) -> str | None:
        """The ETag of ``DirectoryOrigin``."""
        status = self.status()
        return None if status is None else version_of(status).etag


class DirectoryWriter:
    """A ``WritableOrigin`` over the files ``path``/``prefix``/name."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self._root = path
        self._prefix = prefix

    def lingers_s(self, write: Write) -> float:
        """As ``WritableOrigin.lingers_s``: none, because threads end with their process."""
        return 0.0

    async def end_abandoned(self) -> int:
        """As ``WritableOrigin.end_abandoned``: a file that was not renamed is not an object."""
        return 0

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """As ``WritableOrigin.write``. A new object is answered 201, a replaced one 200."""
        subject = f"{self._root} {write.name!a}"
        try:
            key = object_key(self._prefix, write.name)
            if "" in key.split("/"):
                raise refuse(400, "InvalidObjectName", "not the name of a file")
            if write.method == "DELETE":
                return await in_thread(lambda: _delete(self._root, key, write.fields))
            return await self._put(key, write, body)
        except WriteRefusedError as exc:
            return exc.response
        except OSError as exc:
            if isinstance(exc, ConnectionError | TimeoutError):  # raised by the viewer's body
                raise
            refusal = _ERRNO_REFUSALS.get(exc.errno or 0)
            if refusal is None:
                raise OriginError(OriginFailure.UNAVAILABLE, f"{subject}: {exc.strerror}") from exc
            return refuse(*refusal, str(exc.strerror)).response

    async def _put(
        self, key: str, write: Write, body: AsyncIterator[bytes] | None
    ) -> WriteResponse:
        upload = Upload(write, body)
        verifier = upload.verifier()
        new_file = await in_thread(lambda: _NewFile(self._root, key, write.fields))
        try:
            async for piece in gather(upload.pieces()):
                await in_thread(partial(new_file.append, piece, verifier))
            verifier.verify(upload.trailers)
            return await in_thread(lambda: new_file.rename(write.fields))
        finally:
            await in_thread(new_file.close)


class _NewFile:
    """A new file in the folder of the file that it will replace. Its methods block and raise
    OSError."""

    def __init__(self, root: Path, key: str, fields: HeaderFields) -> None:
        self._entry = _Entry(_open_folder(root, key, make=True), key.rpartition("/")[2])
        self._name = f"{_NEW_PREFIX}{secrets.token_hex(16)}"
        self._descriptor = -1
        try:
            require_condition(fields, self._entry.etag())
            self._descriptor = os.open(self._name, _NEW_FILE, dir_fd=self._entry.folder)
            os.fchmod(self._descriptor, 0o644)  # not the edge's umask, which is for its own files
        except BaseException:
            os.close(self._entry.folder)
            raise

    def append(self, piece: bytes, verifier: Verifier) -> None:
        verifier.update(piece)
        write_all(self._descriptor, piece)

    def rename(self, fields: HeaderFields) -> WriteResponse:
        """Renames it to the object. Raises WriteRefusedError if a condition now fails."""
        os.fsync(self._descriptor)
        version = version_of(os.fstat(self._descriptor))
        with _locked(self._entry.folder):
            replaced_etag = self._entry.etag()
            require_condition(fields, replaced_etag)
            os.rename(
                self._name,
                self._entry.name,
                src_dir_fd=self._entry.folder,
                dst_dir_fd=self._entry.folder,
            )
            self._name = ""
            os.fsync(self._entry.folder)
        return WriteResponse(201 if replaced_etag is None else 200, (("ETag", version.etag),))

    def close(self) -> None:
        """Closes it, and removes it if it was not renamed."""
        if self._name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._entry.folder)
        os.close(self._descriptor)
        os.close(self._entry.folder)


def _delete(root: Path, key: str, fields: HeaderFields) -> WriteResponse:
    try:
        folder = _open_folder(root, key, make=False)
    except FileNotFoundError:
        require_condition(fields, None)
        return WriteResponse(204)
    try:
        entry = _Entry(folder, key.rpartition("/")[2])
        with _locked(folder):
            require_condition(fields, entry.etag())
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=folder)
            os.fsync(folder)
    finally:
        os.close(folder)
    return WriteResponse(204)


def _open_folder(root: Path, key: str, *, make: bool) -> int:
    """Opens the folder of ``root``/``key``, created if ``make``. Raises OSError, WriteRefusedError.

    Links inside the root are allowed. The path is resolved first, then opened segment by segment
    without following links, so that a link created in between is not followed.
    """
    real_root = os.path.realpath(root, strict=True)
    real_folder = os.path.realpath(os.path.join(real_root, os.path.dirname(key)))
    if os.path.commonpath((real_root, real_folder)) != real_root:
        raise refuse(403, "AccessDenied", "a link leads out of the folder")
    folder = os.open(real_root, _FOLDER)
    for segment in os.path.relpath(real_folder, real_root).split(os.sep):
        if segment == ".":
            continue
        try:
            inner = _open_segment(folder, segment, make=make)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _open_segment(folder: int, segment: str, *, make: bool) -> int:
    try:
        return os.open(segment, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    is_created = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(segment, dir_fd=folder)
        os.fsync(folder)
        is_created = True
    inner = os.open(segment, _FOLDER, dir_fd=folder)
    if is_created:
        os.fchmod(inner, 0o755)
    return inner


@contextlib.contextmanager
def _locked(folder: int) -> Iterator[None]:
    """Locks a folder against writes, also of other workers, while a condition is checked."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)
