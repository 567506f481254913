"""Pipeline names for the shell's completion: from the catalog if it is running, else from the project's files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from penstock.settings import Settings

__all__ = ["names_or_files", "pipeline_names"]

SECONDS: Final = 2
"""Time-out of the database, since a person is waiting."""


def pipeline_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the names that begin with `incomplete`; starts nothing, and reports no error."""
    from penstock.errors import PenstockError
    from penstock.settings import load

    found: set[str] = set()
    with suppress(PenstockError):
        settings = load(_project(context))
        names = _from_catalog(settings)
        found = set(_from_files(settings.project) if names is None else names)
    return sorted(name for name in found if name.startswith(incomplete))


def names_or_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the pipeline names that begin with `incomplete`, and let the shell add its files."""
    names = [CompletionItem(name) for name in pipeline_names(context, parameter, incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def _project(context: click.Context) -> Path | None:
    """Return the folder that the command line names, before or after the command."""
    parent = context.parent.params if context.parent else {}
    return context.params.get("common_project") or parent.get("common_project")


def _from_catalog(settings: Settings) -> list[str] | None:
    """Return the names in the catalog; None if it is not running, or does not answer."""
    from catalog.overview import overview
    from dataflows.process.site import Site
    from penstock.errors import PenstockError
    from penstock.postgres import connect

    site = Site(settings)
    with suppress(PenstockError, OSError):
        if site.server and not (settings.home.exists() and site.server.pid):
            return None
        with closing(connect(site.catalog_dsn, "penstock:completion", timeout=SECONDS)) as session:
            return [one.name for one in overview(session)]
    return None


def _from_files(project: Path) -> Iterable[str]:
    from penstock.models.documents import read_project

    return (one.name for one in read_project(project).pipelines)
