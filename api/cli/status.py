"""`penstock status`: one pipeline, or a set with its members. Of a set it loads neither SQLAlchemy nor a model."""

from __future__ import annotations

import click

from api.cli.completion import pipeline_names, tables_option
from api.cli.main import State, command
from api.cli.set_status import show_set, watched_set
from api.client import connected


@command(name="status")
@click.argument("name", shell_complete=pipeline_names)
@tables_option("Members whose table matches.")
@click.option("--watch", is_flag=True, help="Show rows/s and lag, or a set's members, until no run is open.")
def status_(state: State, name: str, tables: tuple[str, ...], *, watch: bool) -> None:
    """Show one pipeline: its version and status, its last runs, and how far a stream is behind.

    Of a set: its members, the worst first.
    """
    with connected(state.settings, runs=False) as client:
        for line in watched_set(client, name, tables) if watch else ():
            state.output.say(line)
        if show_set(state, client, name, tables):
            return
        from api.cli.pipelines import show_pipeline

        show_pipeline(state, client, name, watch=watch)
