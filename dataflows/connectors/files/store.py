"""Stores of files: one interface for a folder on this machine and a bucket of an object store.

Paths are relative to the connection's root, with ``/`` between their parts. Sinks rely on `create`: of all processes
that create one path, exactly one succeeds, and its file is durable and complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from dataflows.connectors.file_access import denied, lacking
from penstock.errors import AccessDenied, OutOfSpace, PenstockError, Refused, Unavailable

__all__ = ["Gone", "Listed", "LocalStore", "Store", "translated"]

NO_SPACE: Final = {28, 122}
"""ENOSPC and EDQUOT."""


class Gone(PenstockError):
    """The file does not exist, or no longer."""

    code = "files.gone"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the store lists it; `version` changes whenever its content does."""

    path: str
    size: int
    modified: datetime
    version: str


class Store(Protocol):
    """A store of files. Every method raises `Unavailable` or `AccessDenied` if the store cannot be used."""

    remote: bool
    """True if each request is a round trip."""

    def list(self, folder: str) -> Iterator[Listed]:
        """Yield all files below a folder, sorted by path."""

    def level(self, folder: str) -> tuple[Sequence[str], Sequence[str]]:
        """Return the paths of the folders and files directly in a folder, sorted; a folder without files is none."""

    def head(self, path: str) -> Listed:
        """Return one file's metadata. Raises `Gone`."""

    def get(self, path: str) -> bytes:
        """Return the content of a small file. Raises `Gone`."""

    def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
        """Create the file atomically and durably; return False if it exists.

        `folder_exists`: do not create its folder, if the store has folders; raises `Gone` if it does not exist.
        """

    def put(self, path: str, data: bytes) -> None:
        """Create or replace the file atomically and durably."""

    def reader(self, path: str) -> Any:
        """Open a seekable Arrow file for reading. Raises `Gone`."""

    def writer(self, path: str) -> AbstractContextManager[Any]:
        """Return a context with an Arrow stream to write to; the file exists once it ends, not if it raises."""

    def copy(self, source: str, target: str) -> None:
        """Copy a file to another path without reading it, replacing any file there. Raises `Gone`."""

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; missing ones are ignored."""

    def missing_grant(self, folder: str) -> tuple[str, str] | None:
        """Return why no file can be written in a folder, and the remedy; None if files can. Writes none itself."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder on this machine, or a mounted one with POSIX semantics; `create` is a `link`."""

    root: Path
    where: str
    remote = False

    def missing_grant(self, folder: str) -> tuple[str, str] | None:
        return lacking(self.root / folder / "part", write=True)

    def list(self, folder: str) -> Iterator[Listed]:
        with self._translated():
            self.root.stat()
            start = self._at(folder)
            inside = start.resolve().is_relative_to(self.root.resolve())
            found = dict(self._walk(start))
        for path in sorted(found):
            with contextlib.suppress(Gone):
                yield self.head(path) if found[path].is_symlink() or not inside else self._seen(path, found[path])

    def level(self, folder: str) -> tuple[Sequence[str], Sequence[str]]:
        with self._translated():
            self.root.stat()
            start = self._at(folder)
            try:
                entries = sorted(os.scandir(start), key=lambda one: one.name)
            except (FileNotFoundError, NotADirectoryError):
                return [], []
            paths = {entry.path: Path(entry.path).relative_to(self.root).as_posix() for entry in entries}
            folders = [one for one in entries if one.is_dir(follow_symlinks=False) and self._has_files(Path(one.path))]
            files = [one for one in entries if one.is_file() and not one.name.startswith(_TEMPORARY)]
        return [paths[one.path] for one in folders], [paths[one.path] for one in files]

    def _has_files(self, folder: Path) -> bool:
        """True if there is a file below a folder that is not hidden from `folder` on."""
        depth = len(folder.relative_to(self.root).parts)
        found = (path.split("/")[depth:] for path, _ in self._walk(folder))
        return any(not any(part.startswith(("_", ".")) for part in parts) for parts in found)

    def _seen(self, path: str, entry: os.DirEntry[str]) -> Listed:
        """Return what `head` does of a file in a folder that was walked, without looking for links on the way again."""
        with self._translated():
            return _listed(path, entry.stat(follow_symlinks=False))

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):  # links to folders may form a cycle
                yield from self._walk(Path(entry.path))
            elif entry.is_file() and not entry.name.startswith(_TEMPORARY):
                yield Path(entry.path).relative_to(self.root).as_posix(), entry

    def head(self, path: str) -> Listed:
        with self._translated():
            return _listed(path, self._regular(path).stat())

    def get(self, path: str) -> bytes:
        with self._translated():
            return self._regular(path).read_bytes()

    def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
        with self._temporary_file(path, data, folder_exists=folder_exists) as temporary:
            try:
                os.link(temporary, self._at(path))
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True

    def put(self, path: str, data: bytes) -> None:
        with self._temporary_file(path, data) as temporary:
            temporary.replace(self._at(path))

    @contextmanager
    def _temporary_file(self, path: str, data: bytes, *, folder_exists: bool = False) -> Iterator[Path]:
        """Write a temporary file next to `path`; afterwards, sync the folder."""
        with self._translated():
            temporary = self._temporary(path, folder_exists=folder_exists)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _sync(temporary.parent)

    def reader(self, path: str) -> Any:
        with self._translated():
            return pa.OSFile(str(self._regular(path)))

    @contextmanager
    def writer(self, path: str) -> Iterator[Any]:
        with self._translated():
            temporary = self._temporary(path)
            try:
                with pa.OSFile(str(temporary), "wb") as stream:
                    yield stream
                _sync(temporary)
                temporary.replace(self._at(path))
                _sync(temporary.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def copy(self, source: str, target: str) -> None:
        with self._translated():
            temporary = self._temporary(target)
            os.link(self._at(source), temporary)
            temporary.replace(self._at(target))  # does nothing if both are already the same file
            temporary.unlink(missing_ok=True)
            _sync(temporary.parent)

    def delete(self, paths: Iterable[str]) -> None:
        with self._translated():
            for path in paths:
                self._at(path).unlink(missing_ok=True)

    def _temporary(self, path: str, *, folder_exists: bool = False) -> Path:
        """Return a new name in the folder of `path`; create the folder, but not the root (an unmounted share?)."""
        temporary = self._at(path).with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        if not folder_exists:
            self.root.stat()
            temporary.parent.mkdir(parents=True, exist_ok=True)
        return temporary

    def _at(self, path: str) -> Path:
        """Return the location of a path.

        Raises:
            Refused: it is outside the root, by its parts or by a link among its folders.
        """
        location = self.root / path
        if path and (location.name == ".." or not location.parent.resolve().is_relative_to(self.root.resolve())):
            raise self._outside(path)
        return location

    def _regular(self, path: str) -> Path:
        """Return the location of a file that may be opened: not a link out of the root, nor a pipe or device."""
        location = self._at(path)
        mode = location.stat().st_mode
        if not location.resolve().is_relative_to(self.root.resolve()):
            raise self._outside(path)
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            hint = "name a regular file; pipes, devices and sockets are not read"
            raise Refused("it is not a regular file", where=self.where, value=path, hint=hint)
        return location

    def _outside(self, path: str) -> Refused:
        hint = "pipelines read and write only below the connection's `root`: copy the file there, or move the root"
        return Refused("it leads out of the connection's root", where=self.where, value=path, hint=hint)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self.where):
                yield
        except Gone as error:
            if self.root.is_dir():
                raise
            hint = "create it, or mount its file system, then run again"
            what = "the connection's folder does not exist"
            raise Unavailable(what, where=self.where, value=str(self.root), hint=hint) from error


def _listed(path: str, status: os.stat_result) -> Listed:
    modified = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    return Listed(path, status.st_size, modified, f"{status.st_size}-{status.st_mtime_ns}")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Translate the system's errors; an `OSError` of Arrow, which has no number, is passed on.

    Raises:
        Gone, AccessDenied, OutOfSpace, Refused, Unavailable: by the error's kind.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(str(error.filename)).name
        raise Gone("the file is gone", where=where, value=name, hint="run it again") from error
    except PermissionError as error:
        raise _denied(error, where) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutOfSpace("the disk or quota is full", where=where, hint="make room") from error
        if error.errno is None:
            raise
        if error.errno == errno.EROFS:
            hint = "mount it for writing, or name another folder"
            raise Refused("the file system is read-only", where=where, hint=hint) from error
        what = f"the file system failed: {os.strerror(error.errno)}"
        raise Unavailable(what, where=where, hint="try again") from error


_FILE: Final = re.compile(r"local file '(.+?)'")


def _denied(error: PermissionError, where: str) -> AccessDenied:
    named = _FILE.search(str(error))  # Arrow names the file in its message only
    name = named[1] if named else error.filename
    if name is not None:
        path = Path(os.fsdecode(name))
        found = denied(path, where, write=False) or denied(path, where, write=True)
        if found is not None:
            return found
    hint = "give this user the permission to read, or to write, below the connection's root"
    return AccessDenied("the file system refuses access", where=where, hint=hint)


_TEMPORARY: Final = "._penstock-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
