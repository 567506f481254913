"""`penstock catalog`: datasets, their schemas and changes; the catalog made again after a restore."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from api.cli.alone import take_locks
from api.cli.completion import connection_names
from api.cli.datasets import erase, search, show
from api.cli.main import State, command
from api.cli.schemas import compatibility, diff, history
from api.client import connected
from catalog.database import reset
from catalog.origin import adopt, forget
from dataflows.projector import project_to_end
from penstock import postgres
from penstock.errors import UsageError
from penstock.topics.table import CONTROL


@command(name="catalog")
@click.argument("action", type=click.Choice(["search", "show", "erase", "history", "diff", "compatibility", "rebuild"]))
@click.argument("words", nargs=-1, metavar="[WORDS|DATASET [V1] [V2]|DATASET [RULE]]")
@click.option("--type", "kind", help="Search: only objects of this kind, such as `table`.")
@click.option("--tag", help="Search: only objects with this tag.")
@click.option("--connection", shell_complete=connection_names, help="Search: only objects of this connection.")
@click.option("--owner", help="Search: only objects that a pipeline of this owner reads or writes.")
@click.option("--column", help="Search: only objects with a column of this name.")
@click.option("--column-type", help="Search: only objects with a column (with --column: that one) of this type.")
@click.option("--updated-since", help="Search: only those with news since a time, or a duration ago such as 2h, 1d.")
@click.option("--gone", is_flag=True, help="Search: objects that are gone from their source, too.")
@click.option("--fuzzy", is_flag=True, help="Search: words that are spelt alike match, too.")
@click.option("--after", help="Search: continue after this page, as `after` of --json says.")
@click.option("--values", is_flag=True, help="Show: frequent values too, as far as they are kept.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Search: how many.")
def catalog_(state: State, action: str, words: tuple[str, ...], *, values: bool, **filters: Any) -> None:
    """Search the catalog; show a dataset, or how its schema changed; `rebuild` the catalog.

    `search` finds datasets that have all WORDS in names, columns, comments or tags, best first; without words, all. A
    word of three letters or more is the beginning of words, too; "TWO WORDS" in quotation marks are a phrase, and -WORD
    (after a word or --) leaves out what has it. If nothing matches, it shows what is spelt alike. A DATASET is
    CONNECTION:OBJECT. `show` shows its columns, keys and size. `erase` deletes the values of it that discovery has
    kept. `history` shows each version of its schema. `diff` compares two, or one with the current one, or the last two,
    and names the pipelines that the changes touch. `compatibility` shows or sets what a next schema may change: none,
    backward, forward, full, or one of the last three with `_transitive`.

    `rebuild` drops the catalog and makes it again from the log, when nothing runs. Dead letters stay, and so do the
    positions at the sinks: the next run of each pipeline continues from there.
    """
    if action == "search":
        search(state, " ".join(words), filters)
        return
    if action == "show":
        show(state, words, values=values)
        return
    if action != "rebuild":
        {"erase": erase, "history": history, "diff": diff, "compatibility": compatibility}[action](state, words)
        return
    if words:
        raise UsageError("`catalog rebuild` takes no dataset", where="penstock catalog", value=words[0])
    _rebuild(state)


def _rebuild(state: State) -> None:
    with connected(state.settings, runs=False) as client:
        with client.site.open_log("rebuild") as log:
            take_locks(log, str(state.settings.project), "rebuild")
            reset(client.site.catalog_dsn)
            with closing(postgres.connect(client.site.catalog_dsn, "penstock:rebuild", autocommit=False)) as session:
                forget(session)
                adopt(session, log.identity())
                session.commit()
            with state.output.progress("folded", log.end(CONTROL, 0)) as told:
                project_to_end(client.site, told)
        count, pipelines = client.log.end(CONTROL, 0), len(client.overview())
    state.output.data({"records": count, "pipelines": pipelines})
    state.output.say(f"The catalog is made again from {count:,} records: {pipelines} pipelines.")
    state.output.hint("penstock list")
