"""Names of pipelines for the shell's completion: from the catalog where it runs already, else from the files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from penstock.settings import Settings

__all__ = ["pipeline_names"]

SECONDS: Final = 2
"""How long a database may take to answer: somebody waits at the keyboard."""


def pipeline_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The names that begin with `incomplete`. Nothing is started for it, and nothing is said where it fails."""
    from penstock.errors import PenstockError
    from penstock.settings import load

    found: set[str] = set()
    with suppress(PenstockError):
        settings = load(_project(context))
        names = _from_catalog(settings)
        found = set(_from_files(settings.project) if names is None else names)
    return sorted(name for name in found if name.startswith(incomplete))


def _project(context: click.Context) -> Path | None:
    """The folder that the words on the line name, before or after the command."""
    parent = context.parent.params if context.parent else {}
    return context.params.get("common_project") or parent.get("common_project")


def _from_catalog(settings: Settings) -> list[str] | None:
    """What the catalog knows; None where it does not run, or does not answer."""
    from psycopg.conninfo import make_conninfo

    from catalog.database import engine
    from catalog.store import MetadataStore
    from dataflows.process.site import Site
    from penstock.errors import PenstockError

    site = Site(settings)
    with suppress(PenstockError, OSError):
        if site.server and not (settings.home.exists() and site.server.pid):
            return None
        with MetadataStore(engine(make_conninfo(site.catalog_dsn, connect_timeout=SECONDS), pool_size=1)) as store:
            return [one.name for one in store.pipelines().items]
    return None


def _from_files(project: Path) -> Iterable[str]:
    from penstock.models.documents import read_project

    return (one.name for one in read_project(project).pipelines)
