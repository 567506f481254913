"""`penstock catalog rebuild`: the catalog made again from the log, after a restore of either."""

from __future__ import annotations

from contextlib import closing

import click

from api.cli.alone import take_locks
from api.cli.main import State, command
from api.client import connected
from catalog.database import reset
from catalog.origin import adopt, forget
from dataflows.projector import project_to_end
from penstock import postgres
from penstock.topics.table import CONTROL


@command(name="catalog")
@click.argument("action", type=click.Choice(["rebuild"]))
def catalog_(state: State, action: str) -> None:  # noqa: ARG001 - there is one action so far
    """Drop the catalog and make it again from the log (`rebuild`), when nothing runs.

    Dead letters stay, and so do the positions at the sinks: the next run of each pipeline continues from there.
    """
    with connected(state.settings, runs=False) as client:
        with client.site.open_log("rebuild") as log:
            take_locks(log, str(state.settings.project), "rebuild")
            reset(client.site.catalog_dsn)
            with closing(postgres.connect(client.site.catalog_dsn, "penstock:rebuild", autocommit=False)) as session:
                forget(session)
                adopt(session, log.identity())
                session.commit()
            project_to_end(client.site)
        count, pipelines = client.log.end(CONTROL, 0), len(client.overview())
    state.output.data({"records": count, "pipelines": pipelines})
    state.output.say(f"The catalog is made again from {count:,} records: {pipelines} pipelines.")
    state.output.hint("penstock list")
