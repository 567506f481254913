"""Where the embedded server's files live and whose they are, so that its account can reach them.

As root the server needs another account, and that account may be unable to enter a folder above the project. No
permission is ever changed above our own folders; the data then live elsewhere, and the project says where.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from penstock.errors import AccessDenied, NotFound, OutOfSpace, Unavailable

__all__ = ["Account", "Place", "account_for", "place_for", "system_error"]

ELSEWHERE: Final = Path("/var/lib/penstock")
POINTER: Final = "MOVED"
OWNER: Final = "HOME"
"""Says, in a folder elsewhere, whose it is."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./+-]+")
_SOCKET_ROOM: Final = 90
"""Bytes of a socket's folder: 107 for the whole path, less ``/.s.PGSQL.5432.lock``."""


class _As(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the server runs as; `other` when that is not the caller's own."""

    uid: int
    gid: int
    other: bool

    def options(self) -> _As:
        """For `subprocess`: become this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.other else {}

    def own(self, path: Path) -> None:
        """Give one file or folder of ours to the account; a link is never followed."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def open(self, path: Path, flags: int) -> int:
        """Open a file of ours, private to the account; a link is never followed."""
        file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self.other:
            os.fchown(file, self.uid, self.gid)
        return file

    def can_enter(self, folder: Path) -> bool:
        """Whether the account reaches the folder, asked of the system by trying."""
        return self._tries('cd -- "$1"', folder)

    def can_run(self, program: Path) -> bool:
        """Whether the account can run the program."""
        return self._tries('"$1" --version', program)

    def _tries(self, script: str, path: Path) -> bool:
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **self.options(),
        )
        return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of the server's files, its data and the folder of its socket."""

    root: Path
    data: Path
    socket: Path


def account_for(home: Path, user: str | None) -> Account:
    """The account for a server at `home`: the caller's, or when that is root, an unprivileged one."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), other=False)
    try:
        entry = pwd.getpwnam(user) if user else _owner(home) or pwd.getpwnam("nobody")
    except KeyError as error:
        raise NotFound("no such account for the embedded server", value=user) from error
    return Account(entry.pw_uid, entry.pw_gid, other=True)


def _owner(home: Path) -> pwd.struct_passwd | None:
    """Who owns the home, or else the nearest folder above it that exists; None for root and for an unnamed user."""
    uid = next(folder.stat().st_uid for folder in (home, *home.parents) if folder.exists())
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid) if uid else None
    return None


def place_for(home: Path, account: Account) -> Place:
    """The place of a server at `home`, made if needed; raises AccessDenied if it belongs to another account."""
    try:
        root = _reachable(home, account)
        socket = root / "run"
        if len(os.fsencode(socket)) > _SOCKET_ROOM or not _PLAIN.fullmatch(str(socket)):
            socket = Path("/tmp") / f"penstock-{_digest(root)}"  # noqa: S108 - one fixed place; made private below
        _private(socket, account)
    except OSError as error:
        raise system_error(error, home) from error
    return Place(root, root / "data", socket)


def system_error(error: OSError, home: Path) -> Unavailable:
    """Our error for the system's, met while working on the files of a server at `home`."""
    where = str(error.filename or home)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfSpace("no space for the embedded server's files", where=where, hint="free some space on that disk")
    if isinstance(error, PermissionError):
        return _not_ours(Path(where))
    return Unavailable(f"the embedded server's files cannot be used: {error.strerror}", where=where)


def _reachable(home: Path, account: Account) -> Path:
    pointer = home / POINTER
    if not pointer.exists():
        _private(home, account)
        if account.can_enter(home):
            return home
        _point(pointer, account)
    root = Path(pointer.read_text().strip())
    if not root.is_dir():
        hint = f"bring that folder back, or delete {pointer} to begin with nothing"
        raise Unavailable("the embedded server's data are gone", where=str(pointer), value=str(root), hint=hint)
    _private(root, account)
    return root


def _point(pointer: Path, account: Account) -> None:
    """Make a folder elsewhere and name it in `pointer`, whole and once, whoever else tries."""
    ELSEWHERE.mkdir(mode=0o711, parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="server-", dir=ELSEWHERE))
    account.own(root)
    (root / OWNER).write_text(f"{pointer.parent}\n")
    draft = pointer.with_name(root.name)
    draft.write_text(f"{root}\n")
    try:
        os.link(draft, pointer)
    except FileExistsError:
        shutil.rmtree(root)
    finally:
        draft.unlink()


def _private(folder: Path, account: Account) -> None:
    """Make the folder, for the account alone; raises AccessDenied if somebody else's stands there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
        account.own(folder)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {account.uid, os.geteuid()}:
            raise _not_ours(folder) from None
        if found.st_uid != account.uid or found.st_mode & 0o077:
            folder.chmod(0o700)
            account.own(folder)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _not_ours(path: Path) -> AccessDenied:
    hint = "run as the user that made it, or choose another home, or set PENSTOCK_DATABASE_URL"
    return AccessDenied("the embedded server's files belong to another user", where=str(path), hint=hint)
