"""The tables: schema `catalog`, folded from the control topic alone, and schema `ops`, which contains the rest.

A replay of the topic must reproduce `catalog` exactly. So its keys are names, or ids from the records or derived from
them; there are no sequences and no server-side defaults, every time is a record's time, and `changed` is the offset of
the record that last touched the row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Date,
    Double,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR

from catalog.columns import CATALOG, OPS, metadata
from catalog.columns import exact as _exact
from catalog.columns import folded as _folded
from catalog.columns import json as _json
from catalog.columns import number as _number
from catalog.columns import text as _text
from catalog.columns import time as _time

__all__ = [
    "CATALOG", "OPS", "agent_decisions", "alerts", "arrivals", "breakers", "commands", "connections", "datasets",
    "dead_letter_owners", "dead_letters", "differences", "discoveries", "errors", "faults", "incidents",
    "mapping_versions", "mappings", "metadata", "metric_runs", "metric_series", "metrics_1h", "metrics_1m",
    "metrics_1s", "pipeline_versions", "pipelines", "policies", "policy_versions", "position", "profiles", "redrives",
    "runs", "schema_versions", "scores", "search_entries", "set_pages", "settings", "silences", "sink_states",
    "snapshots", "tasks", "timers", "words", "workers",
]  # fmt: skip


def _point() -> list[Column[Any]]:
    """The columns of one or more values of a metric: how many, their sum, and so on."""
    return [
        Column("count", BigInteger, nullable=False),
        *(Column(name, Double, nullable=False) for name in ("sum", "min", "max", "last")),
        Column("last_at", TIMESTAMP(timezone=True), nullable=False),
        Column("parts", JSONB, nullable=False),
    ]


position = Table(
    "position", metadata,
    _text("id", key=True), Column("next", BigInteger, nullable=False), Column("reading", JSONB, nullable=False),
    schema=CATALOG,
)  # fmt: skip
"""The position of the projection: the next offset to read, and the reader's state there."""

connections = _folded(
    "connections",
    _text("name", key=True), _text("type"), Column("version", Integer), _json("connection"), _time("at"),
)  # fmt: skip

datasets = _folded(
    "datasets",
    _text("id", key=True), _text("connection"), _text("object"), _text("kind"), _text("description"),
    Column("tags", ARRAY(Text)), Column("version", Integer), _text("fingerprint"), _text("outline"), _json("schema"),
    _text("compatibility"),
    _number("rows"), _number("bytes"), _json("profile"), _text("profiled"), _time("profiled_at"),
    _number("first_offset"), _time("first_at"), _number("last_offset"), _time("last_at"),
    _time("gone_at"), _json("seen"),
    Index("datasets_connection_object_idx", "connection", "object"),
    Index("datasets_last_at_idx", "last_at"),
)  # fmt: skip
"""Catalog entries. `version` is that of the current schema, null until one was observed; `outline` and `profiled` are
hashes of what a run sees of its schema, and of its profile. An entry that is gone from its source has `gone_at`. `seen`
is who saw the current schema first, and if it was `described` since, or only its columns were seen by a run."""

search_entries = _folded(
    "search_entries",
    _text("id", key=True), _exact("connection"), _exact("object"), _text("kind"), Column("tags", ARRAY(Text)),
    _text("texts"), Column("gone", Boolean), Column("sampled", Boolean), Column("search", TSVECTOR),
    Index("search_entries_search_idx", "search", postgresql_using="gin"),
    Index("search_entries_sample_idx", "search", postgresql_using="gin", postgresql_where=text("sampled")),
    Index("search_entries_name_idx", "connection", "object"),
)  # fmt: skip
"""What the search reads of each dataset: `search` and `texts` are `lexemes.py`'s. Narrow rows, for it reads many."""

words = _folded(
    "words", _text("word", key=True), Column("trigrams", ARRAY(Text)),
    Index("words_trigrams_idx", "trigrams", postgresql_using="gin"),
)  # fmt: skip
"""Every word that an entry has had, for those that are spelt alike."""

schema_versions = _folded(
    "schema_versions",
    _text("dataset", key=True), Column("version", Integer, primary_key=True, autoincrement=False),
    _text("fingerprint"), _json("schema"), _time("at"), _number("offset"), _text("actor"), _number("cause"),
)  # fmt: skip
"""Every schema of a dataset: version = previous + 1 if the fingerprint differs. `actor` has seen it, after `cause`."""

discoveries = _folded(
    "discoveries",
    _text("id", key=True), _text("connection"), _text("status"), _json("discovery"), _json("found"), _json("notes"),
    _json("error"), _time("requested_at"), _time("finished_at"), _number("offset"),
    Index("discoveries_connection_offset_idx", "connection", "offset"),
)  # fmt: skip
"""Looks at the objects of a connection; `offset` is where one was started."""

mappings = _folded(
    "mappings",
    _text("name", key=True), Column("version", Integer), _text("source"), _text("target"), _json("mapping"),
    _time("at"),
)  # fmt: skip

mapping_versions = _folded(
    "mapping_versions",
    _text("name", key=True), Column("version", Integer, primary_key=True, autoincrement=False), _json("mapping"),
    _time("at"), _text("actor"),
)  # fmt: skip

pipelines = _folded(
    "pipelines",
    _text("uid", key=True), _text("name"), Column("version", Integer), _text("status"), _text("owner"), _json("labels"),
    _text("source"), _text("sink"), _json("pipeline"), _time("created_at"), _time("updated_at"), _time("deleted_at"),
    _json("checked"), _text("member_of"), _json("deletes"), _json("accepted"), _json("letters"),
    Index("pipelines_name_idx", "name"), Index("pipelines_member_of_idx", "member_of"),
)  # fmt: skip
"""Pipelines, including deleted ones. Names are unique among the others; `source` and `sink` are ids of datasets.

`checked` is the last comparison of both sides, `deletes` that of their keys, `letters` what was done last with dead
letters; `accepted` are the objects that may become members of a set although they are new.
"""

set_pages = _folded(
    "set_pages",
    _text("id", key=True), _text("uid"), Column("page", Integer), _text("name"), _text("task"),
    Column("version", Integer), Column("last", Boolean), Column("members", Integer), _json("refused"),
    _json("proposed"), _json("vanished"), _json("unmatched"), _time("at"),
    _text("group"), Column("queued", Boolean), Column("runs", Integer), _json("skipped"),
    Index("set_pages_uid_idx", "uid"),
)  # fmt: skip
"""Pages of the last listing of each set, by its uid and their number, and of the last start of its members.

Pages of an earlier listing that had more are left over: those of one listing have the same `task`, and those of one
start the same `group`, which is `queued` with the last page.
"""

pipeline_versions = _folded(
    "pipeline_versions",
    _text("uid", key=True), Column("version", Integer, primary_key=True, autoincrement=False), _text("name"),
    _json("pipeline"), _time("at"), _text("actor"), Column("rollback_of", Integer),
    Index("pipeline_versions_name_idx", "name"),
)  # fmt: skip

proposals = _folded(
    "proposals",
    _text("id", key=True), _text("pipeline"), _text("uid"), _text("run"), _json("proposal"), _text("status"),
    _time("proposed_at"), _time("answered_at"), _text("by"), _number("offset"), _json("plan"), _text("reason"),
)  # fmt: skip
"""Changes that are proposed for pipelines: `status` is open, approved, denied, void or expired."""

policies = _folded(
    "policies",
    _text("name", key=True), _text("hash"), _text("origin"), _json("policy"), _time("at"),
)  # fmt: skip
"""The policy in force of each name."""

policy_versions = _folded(
    "policy_versions",
    _number("offset", key=True), _text("name"), _text("hash"), _text("origin"), _json("policy"), _time("at"),
    Index("policy_versions_hash_idx", "hash"),
)  # fmt: skip

runs = _folded(
    "runs",
    _text("id", key=True), _text("pipeline"), _text("uid"), Column("version", Integer), _text("status"),
    Column("attempts", Integer), _time("requested_at"), _time("started_at"),
    _time("finished_at"), _json("counters"), _json("seconds"), _json("error"), _number("offset"),
    Column("resumed", Boolean), _time("scheduled_for"), _json("reload"), _json("notes"),
    _text("group"), _json("after"), Index("runs_group_idx", "group"),
    Index("runs_offset_idx", "offset"), Index("runs_pipeline_offset_idx", "pipeline", "offset"),
)  # fmt: skip
"""Runs; `offset` is where a run was created. `uid`, `attempts`, `seconds`, `notes` come from its task's records."""

tasks = _folded(
    "tasks",
    _text("id", key=True), _text("kind"), _text("pipeline"), _text("run"), Column("priority", Integer),
    Column("attempt", Integer), _text("worker"), _text("status"), _text("reason"), _time("queued_at"),
    _time("assigned_at"), _time("started_at"), _time("ended_at"), _json("counters"), _json("seconds"), _json("error"),
    _number("offset"),
    Index("tasks_run_idx", "run"), Index("tasks_offset_idx", "offset"),
)  # fmt: skip

agent_decisions = _folded(
    "agent_decisions",
    _text("id", key=True), _text("agent"), _number("cause"), Column("index", Integer), _time("at"), _text("action"),
    _text("subject"), _text("outcome"), Column("confidence", Double), Column("threshold", Double), _text("policy"),
    _text("correlation"), _json("decision"), _number("offset"),
    Index("agent_decisions_offset_idx", "offset"), Index("agent_decisions_agent_offset_idx", "agent", "offset"),
    Index("agent_decisions_subject_offset_idx", "subject", "offset"), Index("agent_decisions_cause_idx", "cause"),
)  # fmt: skip
"""Decisions by the id of their `agent.decided`; `cause`, `index` are that record's, `decision` is the whole model."""

errors = _folded(
    "errors",
    _text("id", key=True), _time("at"), _text("source"), _text("pipeline"), _text("run"), _text("task"),
    Column("attempt", Integer), _text("code"), _json("error"), _text("correlation"), _number("offset"),
    _text("fingerprint"), _json("classified"), _json("diagnosis"), _json("strategy"),
    Index("errors_offset_idx", "offset"), Index("errors_pipeline_offset_idx", "pipeline", "offset"),
    Index("errors_fingerprint_offset_idx", "fingerprint", "offset"),
)  # fmt: skip
"""Errors, including agents' faults and unreadable records (codes `agent.faulted`, `record.unreadable`).

`diagnosis` is what a worker has found about its cause, `strategy` what was decided to follow it.
"""

faults = _folded(
    "faults",
    _text("fingerprint", key=True), _text("code"), _text("kind"), _text("connection"), _text("template"),
    _number("count"), _time("first_at"), _time("last_at"), _number("last"), _json("pipelines"), _text("error_id"),
    _json("error"), _json("diagnosis"), _json("outcomes"),
    Index("faults_last_idx", "last"),
)  # fmt: skip
"""Errors by fingerprint, or by the id of their code if they have none: how many, since when, the last one with its
diagnosis, at offset `last`. `outcomes` counts how often each strategy has helped or not."""

incidents = _folded(
    "incidents",
    _text("id", key=True), _text("fingerprint"), _text("pipeline"), _text("connection"), _text("kind"),
    _text("status"), _text("what"), _json("incident"), _number("repeats"), _time("opened_at"), _time("last_at"),
    _time("closed_at"), _text("reason"),
    Index("incidents_status_idx", "status"),
)  # fmt: skip
"""Failures that a person has to look at; `repeats` counts those after the first, `reason` is why one was closed."""

breakers = _folded(
    "breakers",
    _text("connection", key=True), _text("status"), Column("failures", Integer), _text("reason"), _time("until"),
    _time("at"),
)  # fmt: skip
"""Connections that have been held back after failures in a row, until when, and why."""

alerts = _folded(
    "alerts",
    _text("id", key=True), _text("cause"), _text("pipeline"), _text("kind"), _text("metric"), _text("severity"),
    _text("status"), _text("summary"), _json("alert"), _time("since"), _time("opened_at"), _time("last_at"),
    _time("closed_at"), _text("reason"), _json("snooze"), _number("offset"), _json("delivered"),
    Index("alerts_status_idx", "status"), Index("alerts_offset_idx", "offset"),
)  # fmt: skip
"""Alerts: `alert` is what was recorded last of one, `snooze` until when it is quiet, and who wants that, `delivered`
the last receipt of each route."""

silences = _folded(
    "silences",
    _text("id", key=True), _text("pipeline"), _text("metric"), _time("until"), _text("why"), _text("by"), _time("at"),
)  # fmt: skip
"""Pipelines, or metrics of them, whose alerts are not told until a time."""

scores = _folded(
    "scores",
    _text("id", key=True), _text("pipeline"), _text("metric"), _text("part"), _time("at"), Column("score", Double),
    _json("numbers"), _number("offset"), Index("scores_pipeline_idx", "pipeline"),
)  # fmt: skip
"""How unusual the last recorded value of each metric was; see `dataflows.detect`."""

commands = _folded(
    "commands",
    _text("id", key=True), _text("type"), _text("key"), _text("actor"), _time("at"), _number("offset"), _text("status"),
    _json("result"), _json("refusal"), _time("answered_at"), _number("answer"),
    Index("commands_offset_idx", "offset"),
)  # fmt: skip
"""Commands and their answers; `answer` is the offset of `command.applied` or `command.refused`."""

workers = _folded(
    "workers",
    _text("worker", key=True), Column("kinds", ARRAY(Text)), Column("slots", Integer), _text("status"), _text("reason"),
    _time("joined_at"), _time("lost_at"),
)  # fmt: skip

timers = _folded(
    "timers",
    _text("timer", key=True), _time("due"), _text("subject"), _text("status"), _time("requested_at"), _time("fired_at"),
)  # fmt: skip

snapshots = Table(
    "snapshots", metadata,
    _text("agent", key=True), Column("offset", BigInteger, nullable=False), Column("rules", Integer, nullable=False),
    Column("state", JSON, nullable=False),
    schema=OPS,
)  # fmt: skip
"""Agents' states: a cache that may be deleted. json, not jsonb: the state is returned as it was written."""

settings = Table("settings", metadata, _text("name", key=True), _json("value"), schema=OPS)

dead_letters = Table(
    "dead_letters", metadata,
    Column("day", Date, primary_key=True), Column("id", Uuid, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("pipeline", "name", "run")),
    Column("split", Integer, nullable=False), Column("row", BigInteger, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("step", "code", "reason")),
    Column("values", JSONB, nullable=False), Column("at", TIMESTAMP(timezone=True), nullable=False),
    Column("fingerprint", Text), Column("redrive", Text), Column("redrive_split", Integer),
    Column("redrive_row", Integer), Column("refused_again", Boolean),
    Column("change", JSONB), Column("overtaken", BigInteger),
    Index("dead_letters_pipeline_run_split_idx", "pipeline", "run", "split"),
    Index("dead_letters_name_at_idx", "name", "at"),
    Index("dead_letters_redrive_idx", "pipeline", "redrive", postgresql_where="redrive IS NOT NULL"),
    Index("dead_letters_change_idx", "pipeline", postgresql_where="change IS NOT NULL"),
    schema=OPS, postgresql_partition_by="RANGE (day)",
)  # fmt: skip
"""Rows that a run could not write, by day; see `catalog.letters`."""

redrives = Table(
    "redrives", metadata, _text("id", key=True), Column("pipeline", Text, nullable=False),
    Column("at", TIMESTAMP(timezone=True), nullable=False), Column("chosen", BigInteger, nullable=False),
    _json("fix"), _json("receipt"), Index("redrives_pipeline_at_idx", "pipeline", "at"),
    schema=OPS,
)  # fmt: skip
"""Redrives of dead letters, by the id of their task; see `catalog.redrives`."""

profiles = Table(
    "profiles", metadata,
    _text("dataset", key=True), Column("connection", Text, nullable=False), Column("object", Text, nullable=False),
    Column("at", TIMESTAMP(timezone=True), nullable=False), Column("columns", JSONB, nullable=False),
    Column("tried", TIMESTAMP(timezone=True)), Index("profiles_at_idx", "at"),
    schema=OPS,
)  # fmt: skip
"""Values of datasets that discovery has seen; see `catalog.profiles`."""

differences = Table(
    "differences", metadata,
    _text("pipeline", key=True), Column("at", TIMESTAMP(timezone=True), nullable=False),
    Column("rows", JSONB, nullable=False), Index("differences_at_idx", "at"),
    schema=OPS,
)  # fmt: skip
"""Keys of rows that differ between both sides of a pipeline; see `catalog.differences`."""

arrivals = Table(
    "arrivals", metadata, _text("pipeline", key=True), _text("files", key=True),
    Column("round", BigInteger, nullable=False), Column("seen", Text, nullable=False),
    Column("report", JSONB, nullable=False),
    schema=OPS,
)  # fmt: skip
"""Files whose arrival has been noticed; see `catalog.arrivals`."""

dead_letter_owners = Table(
    "dead_letter_owners", metadata, _text("pipeline", key=True), Column("token", Text, nullable=False),
    schema=OPS,
)  # fmt: skip
"""The token that allows adding dead letters, for each pipeline."""

metric_series = Table(
    "metric_series", metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("pipeline", "metric", "part")),
    *_point(), UniqueConstraint("pipeline", "metric", "part", name="metric_series_pipeline_metric_part_key"),
    schema=OPS,
)  # fmt: skip
"""Metrics of pipelines, each with the sum of all its points since its first one; see `catalog.metric_points`."""

metrics_1s, metrics_1m, metrics_1h = (
    Table(
        f"metrics_{resolution}", metadata,
        Column("series", Integer, primary_key=True, autoincrement=False),
        Column("at", TIMESTAMP(timezone=True), primary_key=True), *_point(),
        schema=OPS, postgresql_partition_by="RANGE (at)",
    )
    for resolution in ("1s", "1m", "1h")
)  # fmt: skip
"""Points of these metrics by resolution; `at` is where a point begins."""

metric_runs = Table(
    "metric_runs", metadata,
    _text("subject", key=True), Column("pipeline", Text, nullable=False), Column("epoch", BigInteger, nullable=False),
    Column("seen", JSONB, nullable=False), Column("total", JSONB, nullable=False),
    Column("done", Boolean, nullable=False), Column("at", TIMESTAMP(timezone=True), nullable=False),
    Index("metric_runs_open_idx", "subject", postgresql_where="NOT done"),
    schema=OPS,
)  # fmt: skip
"""What is counted of each run; see `catalog.metric_runs`."""

sink_states = Table(
    "sink_states", metadata, _text("pipeline", key=True), _text("sink", key=True),
    Column("identity", Text, nullable=False),
    schema=OPS,
)  # fmt: skip
"""The id of what keeps a pipeline's state at a sink; see `catalog.sink_states`."""
