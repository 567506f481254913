"""The paths and the account of the embedded server, chosen so that the account can reach the files.

As root the server needs another account, which may be unable to enter a folder above the project. Permissions above
our own folders are never changed; instead the data are stored elsewhere, and a file in the project says where.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from penstock.errors import AccessDenied, NotFound, OutOfSpace, Unavailable

__all__ = ["Account", "ServerPaths", "account_for", "orphans", "paths_for", "system_error"]

ELSEWHERE: Final = Path("/var/lib/penstock")
POINTER: Final = "MOVED"
OWNER: Final = "HOME"
"""Name of the file in such a folder that says which project it belongs to."""
NOBODY: Final = "nobody"
ACCOUNT: Final = "penstock-server"
ACCOUNT_SECONDS: Final = 5.0
"""Seconds to try for to create the account."""
_CREATING: Final = Path("/run/penstock-server.lock")
"""Held by root while it creates the account: a second `useradd` at that moment gives the account another number."""
_OPTIONS: Final = (
    "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin",
    ACCOUNT,
)  # fmt: skip
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

    name: str
    uid: int
    gid: int
    other: bool

    def options(self) -> _As:
        """Return the options of `subprocess` that run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.other else {}

    def own(self, path: Path) -> None:
        """Make the account the owner of one file or folder; a link is never followed."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def open(self, path: Path, flags: int) -> int:
        """Open a file, private to the account; a link is never followed."""
        file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self.other:
            os.fchown(file, self.uid, self.gid)
        return file

    def can_enter(self, folder: Path) -> bool:
        """Return True if the account can enter the folder; the system is asked by trying."""
        return self._tries('cd -- "$1"', folder)

    def can_run(self, program: Path) -> bool:
        """Return True if the account can run the program."""
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
class ServerPaths:
    """The folder of the server's files, its data and the folder of its socket."""

    root: Path
    data: Path
    socket: Path


def account_for(home: Path, user: str | None) -> Account:
    """Return the account for a server at `home`: the caller's, or when that is root, an unprivileged one.

    Raises:
        NotFound: there is no account `user`.
        AccessDenied: there is no account for the server, and none can be created.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        return Account(own.pw_name, os.geteuid(), os.getegid(), other=False)
    try:
        entry = pwd.getpwnam(user) if user else _owner(home) or _made()
    except KeyError as error:
        raise NotFound("no such account for the embedded server", value=user) from error
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, other=True)


def _owner(home: Path) -> pwd.struct_passwd | None:
    """Return the owner of the home or of the nearest existing folder above it, if it is a user of this machine.

    None for root, for `nobody` (which everybody may be) and for an unnamed one.
    """
    uid = next(folder.stat().st_uid for folder in (home, *home.parents) if folder.exists())
    with contextlib.suppress(KeyError):
        found = pwd.getpwuid(uid)
        return None if uid == 0 or found.pw_name == NOBODY else found
    return None


def _made() -> pwd.struct_passwd:
    """Return the account that servers of root get; create it if this machine does not have it."""
    deadline = time.monotonic() + ACCOUNT_SECONDS
    while True:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(ACCOUNT)
        said = _create_account()
        if not said:
            continue
        if time.monotonic() > deadline:
            hint = f"useradd {' '.join(_OPTIONS)}; or run as another user, or set PENSTOCK_DATABASE_URL"
            raise AccessDenied(f"the embedded server needs an account of its own: {said}", value=ACCOUNT, hint=hint)
        time.sleep(0.1)  # another process may hold the lock of the accounts


def _create_account() -> str:
    """Create the account unless another process has; return what went wrong, "" if nothing did."""
    try:
        with os.fdopen(os.open(_CREATING, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(KeyError):
                pwd.getpwnam(ACCOUNT)
                return ""
            done = subprocess.run(
                ["useradd", *_OPTIONS],  # noqa: S607 - from PATH, as root
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return (done.stderr.strip() or f"useradd ended with {done.returncode}") if done.returncode else ""


def paths_for(home: Path, account: Account) -> ServerPaths:
    """Return the paths of a server at `home`, created if needed; raises AccessDenied if another account owns them."""
    try:
        root = _reachable(home, account)
        socket, former = root / "run", _former(account)
        if len(os.fsencode(socket)) > _SOCKET_ROOM or not _PLAIN.fullmatch(str(socket)):
            socket = Path("/tmp") / f"penstock-{_digest(root)}"  # noqa: S108 - one fixed path; made private below
            former = []
        _private(socket, account, *former)
    except OSError as error:
        raise system_error(error, home) from error
    return ServerPaths(root, root / "data", socket)


def system_error(error: OSError, home: Path) -> Unavailable:
    """Return our error for the system's, raised by work on the files of a server at `home`."""
    where = str(error.filename or home)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfSpace("no space for the embedded server's files", where=where, hint="free some space on that disk")
    if isinstance(error, PermissionError):
        return _not_ours(Path(where))
    return Unavailable(f"the embedded server's files cannot be used: {error.strerror}", where=where)


def _reachable(home: Path, account: Account) -> Path:
    pointer = home / POINTER
    if not pointer.exists():
        _private(home, account, *_former(account))
        if _serves(home) or account.can_enter(home):
            return home
        _point(pointer, account)
    root = Path(pointer.read_text().strip())
    if not root.is_dir():
        hint = f"restore that folder, or delete {pointer} to start with an empty database"
        raise Unavailable("the embedded server's data are missing", where=str(pointer), value=str(root), hint=hint)
    _private(root, account, *_former(account))
    if (owner := root / OWNER).read_text().strip() != str(home):  # the project was moved
        owner.write_text(f"{home}\n")
    return root


def _point(pointer: Path, account: Account) -> None:
    """Create a folder elsewhere and write its path to `pointer`, atomically, even if several processes try."""
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


def _former(account: Account) -> list[int]:
    """Return the account that servers of root had in earlier releases, whose data become those of `account`."""
    return [pwd.getpwnam(NOBODY).pw_uid] if account.name == ACCOUNT else []


def orphans() -> dict[Path, Path]:
    """Return the folders elsewhere whose project is gone, each with the home that used it last.

    A project that was moved and not used since counts as gone.
    """
    found = {}
    for owner in sorted(ELSEWHERE.glob(f"*/{OWNER}")):
        with contextlib.suppress(OSError):
            home = Path(owner.read_text().strip())
            pointer = home / POINTER
            if not (pointer.exists() and Path(pointer.read_text().strip()) == owner.parent) and not _alive(
                owner.parent
            ):
                found[owner.parent] = home
    return found


def _serves(home: Path) -> bool:
    """True if the server runs there, so that its account has entered it: nothing has to be started to find out."""
    data = home / "data"
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((data / "postmaster.pid").read_text().split()[0])
        return data.samefile(f"/proc/{pid}/cwd")
    return False


def _alive(root: Path) -> bool:
    """True if a server holds the lock of the folder."""
    with (root / "alive").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _private(folder: Path, account: Account, *former: int) -> None:
    """Create the folder, private to the account; raises AccessDenied if another account's exists there.

    A folder of this process, or of one of the `former` accounts, is given to the account.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
        account.own(folder)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {account.uid, os.geteuid(), *former}:
            raise _not_ours(folder) from None
        if found.st_uid != account.uid or found.st_mode & 0o077:
            folder.chmod(0o700)
            account.own(folder)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _not_ours(path: Path) -> AccessDenied:
    hint = "run as the user that created it, choose another home, or set PENSTOCK_DATABASE_URL"
    return AccessDenied("the embedded server's files belong to another user", where=str(path), hint=hint)
