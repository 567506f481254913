"""`penstock topics copy`: the whole log copied to another one, from PostgreSQL to Kafka or back."""

from __future__ import annotations

from api.cli.alone import take_locks
from api.cli.main import State
from api.client import connected
from dataflows.process.site import Site
from penstock.errors import UsageError
from penstock.kafka_url import KafkaUrl, is_kafka
from penstock.postgres import address
from penstock.settings import FILE
from penstock.topics.copying import copy_log
from penstock.topics.opening import open_log, topics_of
from penstock.topics.table import TOPICS, Topic

__all__ = ["copy_topics"]

OWN = "own"
"""The database next to the catalog's, which is in use without the setting `log_url`."""


def copy_topics(state: State, to: str | None) -> None:
    """Copy the log of the settings to the one at `to`, while nothing runs; say how to use it.

    Raises:
        Refused: something runs, or the target has other messages.
    """
    if not to:
        raise UsageError("`topics copy` needs a target", hint="penstock topics copy --to kafka://HOST:PORT")
    with connected(state.settings, runs=False) as client:
        site, source = client.site, client.log
        where = str(state.settings.project)
        site.check(source)
        take_locks(source, where, "copy", client.store.workers())
        url = _target(site, to)
        if _shown(url) == _shown(site.log_url):
            raise UsageError("the topics are there already", where="--to", value=to, hint="penstock topics list")
        with open_log(url, site.catalog_dsn, name="copy", secrets=state.settings.secrets) as target:
            own = list(TOPICS.values())
            copied = copy_log(source, target, own, lambda topic, count: _progress(state, topic, count))
        left = [one.name for one in topics_of(source) if one not in own]
    state.output.data(
        [{"topic": o.topic, "partition": o.partition, "copied": o.copied, "present": o.present} for o in copied]
    )
    total = sum(one.copied for one in copied)
    state.output.say(f"{total:,} messages were copied to {_shown(url)}, with every offset of `control`.")
    if left:
        state.output.say(f"Topics of your own stay where they are, and streams read them there: {', '.join(left)}.")
    setting = f"PENSTOCK_LOG_URL (`log_url` in {FILE})"
    how = f"remove {setting}" if to == OWN else f"set {setting} to this target"
    state.output.hint(f"{how} before anything runs, then penstock doctor")


def _target(site: Site, to: str) -> str:
    """Return the target's URL; create the database next to the catalog's if that is meant."""
    if to != OWN:
        return to
    site.create_own_log()
    return site.own_log_url


def _shown(url: str) -> str:
    return KafkaUrl.parse(url).shown if is_kafka(url) else address(url)


def _progress(state: State, topic: Topic, count: int) -> None:
    if count % 100_000 < 2000:  # noqa: PLR2004 - about each 100,000, in reads of 2,000
        state.output.errors.print(f"{topic.name}: {count:,} messages")
