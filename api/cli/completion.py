"""Names for the shell's completion: from the catalog if it is running, else from the project's files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from penstock.settings import Settings

__all__ = ["connection_names", "names_or_files", "pipeline_names", "tables_option"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
PIPELINES: Final = "SELECT name FROM catalog.pipelines WHERE deleted_at IS NULL AND version IS NOT NULL"
CONNECTIONS: Final = "SELECT name FROM catalog.connections"
VARIABLE: Final = "_PENSTOCK_COMPLETE"
_SPECIAL: Final = re.compile(r"([^\w@%+=:,./-])")
SECONDS: Final = 2
"""Time-out of the database, since a person is waiting."""


def pipeline_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of pipelines that begin with `incomplete`; starts nothing, and reports no error."""
    return _beginning(_names(context, PIPELINES), incomplete)


def connection_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of connections that begin with `incomplete`."""
    return _beginning(_names(context, CONNECTIONS), incomplete)


def tables_option(text: str) -> Callable[[_Function], _Function]:
    """Return the option `--table`, with its help; it may be given again."""
    return click.option("--table", "tables", multiple=True, metavar="PATTERN", shell_complete=_table_names, help=text)


def _table_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the objects of members that begin with `incomplete`: of the set that is named, else of all sets."""
    given = {context.params.get("name"), *context.params.get("names", ()), *context.params.get("what", ())}
    members = [name.partition("/") for name in _names(context, PIPELINES) if "/" in name]
    of_set = [object_ for name, _, object_ in members if name in given]
    return _beginning(of_set or [object_ for _, _, object_ in members], incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [_word(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def _word(name: str) -> str:
    """Return a name as the shell takes it: zsh and fish quote what they complete by themselves, bash does not."""
    is_bash = os.environ.get(VARIABLE, "").startswith("bash")
    return _SPECIAL.sub(r"\\\1", name) if is_bash else name


def _names(context: click.Context, query: str) -> Iterable[str]:
    from penstock.errors import PenstockError
    from penstock.settings import load

    with suppress(PenstockError):
        settings = load(_project(context))
        names = _from_catalog(settings, query)
        return _from_files(settings.project, query) if names is None else names
    return ()


def names_or_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the pipeline names that begin with `incomplete`, and let the shell add its files."""
    names = [CompletionItem(name) for name in pipeline_names(context, parameter, incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def _project(context: click.Context) -> Path | None:
    """Return the folder that the command line names, before or after the command."""
    parent = context.parent.params if context.parent else {}
    return context.params.get("common_project") or parent.get("common_project")


def _from_catalog(settings: Settings, query: str) -> list[str] | None:
    """Return the names in the catalog; None if it is not running, or does not answer."""
    from dataflows.process.site import Site
    from penstock.errors import PenstockError
    from penstock.postgres import connect

    site = Site(settings)
    with suppress(PenstockError, OSError):
        if site.server and not (settings.home.exists() and site.server.pid):
            return None
        with closing(connect(site.catalog_dsn, "penstock:completion", timeout=SECONDS)) as session:
            return [name for (name,) in session.execute(query.encode())]
    return None


def _from_files(project: Path, query: str) -> Iterable[str]:
    from penstock.models.documents import read_project

    documents = read_project(project)
    return [*documents.connections] if query == CONNECTIONS else [one.name for one in documents.pipelines]
