"""`penstock init`: a project that runs as it is, of a sample, or of one system into another."""

from __future__ import annotations

from pathlib import Path

import click

from api.cli.main import State, command
from api.starter import make_project
from penstock.errors import UsageError
from penstock.topics.embedded import EmbeddedServer


@command(name="init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--demo", is_flag=True, help="With the demo's data (TPC-H) in place of a small sample.")
@click.option("--from", "source", metavar="URL", help="Replicate this system as a whole, such as mysql://me@host/shop.")
@click.option("--to", "sink", metavar="URL", help="With --from: into this system.")
@click.option("--include", "tables", multiple=True, metavar="PATTERN", help="With --from: only such objects.")
@click.option("--exclude", "except_", multiple=True, metavar="PATTERN", help="With --from: not those.")
@click.option("--cdc", "changes", is_flag=True, help="With --from: follow the changes of its rows (PostgreSQL).")
def init_(  # noqa: PLR0913 - one for each option
    state: State,
    folder: Path,
    source: str | None,
    sink: str | None,
    tables: tuple[str, ...],
    except_: tuple[str, ...],
    *,
    demo: bool,
    changes: bool,
) -> None:
    """Make a project folder that runs as it is: settings, connections to sample databases, a pipeline, a policy.

    The databases are on the project's own embedded server, which needs no installation. With --from and --to it is a
    project of one set, which has a member for each table, folder or topic, and is applied already.
    """
    if (source is None) != (sink is None) or (source and demo) or (not source and (changes or tables or except_)):
        what = "--from and --to go together, without --demo; --include, --exclude and --cdc need them"
        raise UsageError(what, where="penstock init")
    if source is not None and sink is not None:
        from api.cli.replication import make_replication

        make_replication(state, folder, source, sink, (tables, except_), changes=changes)
        return
    made = _demo_project(folder) if demo else make_project(folder)
    state.output.data({"project": str(folder), "files": [str(path) for path in made]})
    state.output.say(f"{folder} holds {', '.join(str(path.relative_to(folder)) for path in made)}")
    state.output.hint(f"cd {folder} && penstock plan && penstock apply && penstock run orders --watch")


def _demo_project(folder: Path) -> list[Path]:
    from api.demo.data import TABLES, Rows, pipelines, prepare

    def fill(server: EmbeddedServer) -> None:
        with Rows() as rows:
            prepare(server)
            rows.load(server, TABLES)

    return make_project(folder, fill=fill, pipelines=pipelines())
