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

    def require_writable(self) -> None:
        """Raises PermissionError where no file can be made or removed here."""
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self.folder, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


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

    async def check(self, write: Write) -> None:
        """As ``WritableOrigin.check``: the name, the folders that it is in, and the conditions."""
        key = self._key(write.name)
        try:
            await in_thread(lambda: _check(self._root, key, write))
        except OSError as exc:
            raise self._failure(write, exc) from exc

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """As ``WritableOrigin.write``. A new object is answered 201, a replaced one 200."""
        try:
            key = self._key(write.name)
            if write.method == "DELETE":
                return await in_thread(lambda: _delete(self._root, key, write.fields))
            return await self._put(key, write, body)
        except WriteRefusedError as exc:
            return exc.response
        except OSError as exc:
            if isinstance(exc, ConnectionError | TimeoutError):  # raised by the viewer's body
                raise
            failure = self._failure(write, exc)
            if isinstance(failure, OriginError):
                raise failure from exc
            return failure.response

    def _key(self, name: str) -> str:
        """The path of a file below the folder. Raises OriginError, WriteRefusedError."""
        key = object_key(self._prefix, name)
        if "" in key.split("/"):
            raise refuse(400, "InvalidObjectName", "not the name of a file")
        return key

    def _failure(self, write: Write, error: OSError) -> WriteRefusedError | OriginError:
        refusal = _ERRNO_REFUSALS.get(error.errno or 0)
        if refusal is not None:
            return refuse(*refusal, str(error.strerror))
        subject = f"{self._root} {write.name!a}"
        return OriginError(OriginFailure.UNAVAILABLE, f"{subject}: {error.strerror}")

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
        self._entry = _Entry(_make_folder(root, key), _file_name(key))
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


def _check(root: Path, key: str, write: Write) -> None:
    """Raises what ``write`` would find before it changes anything: OSError, WriteRefusedError."""
    folder, missing = _open_folders(root, key)
    entry = _Entry(folder, _file_name(key))
    try:
        if missing:
            status = None
            if write.method != "DELETE":
                _require_short_names(folder, (*missing, entry.name))
        else:
            status = entry.status()
        require_condition(write.fields, None if status is None else version_of(status).etag)
        if write.method != "DELETE" or status is not None:
            entry.require_writable()
    finally:
        os.close(folder)


def _require_short_names(folder: int, names: tuple[str, ...]) -> None:
    """Raises OSError where the file system of ``folder`` cannot have one of ``names``."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)


def _delete(root: Path, key: str, fields: HeaderFields) -> WriteResponse:
    folder, missing = _open_folders(root, key)
    try:
        if missing:
            require_condition(fields, None)
            return WriteResponse(204)
        entry = _Entry(folder, _file_name(key))
        with _locked(folder):
            require_condition(fields, entry.etag())
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=folder)
            os.fsync(folder)
    finally:
        os.close(folder)
    return WriteResponse(204)


def _file_name(key: str) -> str:
    return key.rpartition("/")[2]


def _open_folders(root: Path, key: str) -> tuple[int, tuple[str, ...]]:
    """Opens the innermost folder of ``root``/``key`` that is there.

    Returns it with the names of the folders in it that are not there. Links inside the root are
    allowed. The path is resolved first, then opened segment by segment without following links, so
    that a link created in between is not followed. Raises OSError, WriteRefusedError.
    """
    real_root = os.path.realpath(root, strict=True)
    real_folder = os.path.realpath(os.path.join(real_root, os.path.dirname(key)))
    if os.path.commonpath((real_root, real_folder)) != real_root:
        raise refuse(403, "AccessDenied", "a link leads out of the folder")
    path = os.path.relpath(real_folder, real_root)
    segments = () if path == os.curdir else tuple(path.split(os.sep))
    folder = os.open(real_root, _FOLDER)
    for at, segment in enumerate(segments):
        try:
            inner = os.open(segment, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            return folder, segments[at:]
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)
        folder = inner
    return folder, ()


def _make_folder(root: Path, key: str) -> int:
    """Opens the folder of ``root``/``key``, and makes it where it is not there. Raises OSError,
    WriteRefusedError.
    """
    folder, missing = _open_folders(root, key)
    for segment in missing:
        try:
            inner = _make_segment(folder, segment)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _make_segment(folder: int, segment: str) -> int:
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
