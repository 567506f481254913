"""`penstock destroy`: delete what an installation has on this machine."""

from __future__ import annotations

import shutil

import click

from api.cli.console import escape
from api.cli.main import State, command
from api.cli.pipelines import confirm
from penstock.errors import Refused
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.server_paths import orphans


@command(name="destroy")
@click.option("--orphans", "of_deleted", is_flag=True, help="Delete the data of projects that were deleted, instead.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy_(state: State, *, of_deleted: bool, yes: bool) -> None:
    """Delete the project's embedded server with all its databases: log, catalog, and the sample's.

    The files of the project stay, and so does everything on servers of yours. Where the server's data had to be stored
    outside of the project (below a folder that its account cannot enter), they are deleted there.
    """
    if of_deleted:
        found = orphans()
        places = [f"{root}, of {home}" for root, home in found.items()]
    else:
        server = _own_server(state)
        places = [str(server.home)]
    if places and not yes:
        confirm(f"Delete {'; '.join(places)}? Its log, catalog and databases cannot be restored.")
    if of_deleted:
        for root in found:
            shutil.rmtree(root)
    else:
        server.remove()
    state.output.data({"deleted": places})
    state.output.say("\n".join(f"deleted: {escape(place)}" for place in places) or "There is nothing to delete.")
    state.output.hint("penstock doctor" if of_deleted else "penstock apply makes a new, empty one")


def _own_server(state: State) -> EmbeddedServer:
    """Return the project's server. Raises Refused if there is none, or if it is in use."""
    settings = state.settings
    where = str(settings.home)
    if not settings.embedded:
        raise Refused("the catalog is on a server of yours", where=where, hint="drop its databases there")
    if not settings.home.exists():
        raise Refused("this project has no embedded server", where=where, hint="penstock destroy --orphans")
    server = EmbeddedServer(settings.home)
    if server.used:
        raise Refused("the server is in use", where=where, hint="stop `penstock up` and other commands first")
    return server
