from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE SCHEMA catalog;
CREATE TABLE catalog.agent_decisions (
    id TEXT NOT NULL,
    agent TEXT,
    cause BIGINT,
    index INTEGER,
    at TIMESTAMP WITH TIME ZONE,
    action TEXT,
    subject TEXT,
    outcome TEXT,
    confidence DOUBLE PRECISION,
    threshold DOUBLE PRECISION,
    policy TEXT,
    correlation TEXT,
    decision JSONB,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT agent_decisions_pkey PRIMARY KEY (id)
);
CREATE INDEX agent_decisions_agent_offset_idx ON catalog.agent_decisions (agent, "offset");
CREATE INDEX agent_decisions_cause_idx ON catalog.agent_decisions (cause);
CREATE INDEX agent_decisions_offset_idx ON catalog.agent_decisions ("offset");
CREATE INDEX agent_decisions_subject_offset_idx ON catalog.agent_decisions (subject, "offset");
CREATE TABLE catalog.commands (
    id TEXT NOT NULL,
    type TEXT,
    key TEXT,
    actor TEXT,
    at TIMESTAMP WITH TIME ZONE,
    "offset" BIGINT,
    status TEXT,
    result JSONB,
    refusal JSONB,
    answered_at TIMESTAMP WITH TIME ZONE,
    answer BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT commands_pkey PRIMARY KEY (id)
);
CREATE INDEX commands_offset_idx ON catalog.commands ("offset");
CREATE TABLE catalog.connections (
    name TEXT NOT NULL,
    type TEXT,
    version INTEGER,
    connection JSONB,
    at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT connections_pkey PRIMARY KEY (name)
);
CREATE TABLE catalog.datasets (
    id TEXT NOT NULL,
    connection TEXT,
    object TEXT,
    kind TEXT,
    description TEXT,
    tags TEXT[],
    version INTEGER,
    fingerprint TEXT,
    first_offset BIGINT,
    first_at TIMESTAMP WITH TIME ZONE,
    last_offset BIGINT,
    last_at TIMESTAMP WITH TIME ZONE,
    name_words TEXT,
    column_words TEXT,
    text_words TEXT,
    search TSVECTOR GENERATED ALWAYS AS (
        setweight(to_tsvector('simple', coalesce(name_words, '')), 'A')
        || setweight(to_tsvector('simple', coalesce(column_words, '')), 'B')
        || setweight(to_tsvector('simple', coalesce(text_words, '')), 'C')) STORED,
    changed BIGINT NOT NULL,
    CONSTRAINT datasets_pkey PRIMARY KEY (id)
);
CREATE INDEX datasets_connection_object_idx ON catalog.datasets (connection, object);
CREATE INDEX datasets_search_idx ON catalog.datasets USING gin (search);
CREATE INDEX datasets_tags_idx ON catalog.datasets USING gin (tags);
CREATE TABLE catalog.errors (
    id TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE,
    source TEXT,
    pipeline TEXT,
    run TEXT,
    task TEXT,
    attempt INTEGER,
    code TEXT,
    error JSONB,
    correlation TEXT,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT errors_pkey PRIMARY KEY (id)
);
CREATE INDEX errors_offset_idx ON catalog.errors ("offset");
CREATE INDEX errors_pipeline_offset_idx ON catalog.errors (pipeline, "offset");
CREATE TABLE catalog.mapping_versions (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    mapping JSONB,
    at TIMESTAMP WITH TIME ZONE,
    actor TEXT,
    changed BIGINT NOT NULL,
    CONSTRAINT mapping_versions_pkey PRIMARY KEY (name, version)
);
CREATE TABLE catalog.mappings (
    name TEXT NOT NULL,
    version INTEGER,
    source TEXT,
    target TEXT,
    mapping JSONB,
    at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT mappings_pkey PRIMARY KEY (name)
);
CREATE TABLE catalog.pipeline_versions (
    uid TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT,
    pipeline JSONB,
    at TIMESTAMP WITH TIME ZONE,
    actor TEXT,
    rollback_of INTEGER,
    changed BIGINT NOT NULL,
    CONSTRAINT pipeline_versions_pkey PRIMARY KEY (uid, version)
);
CREATE INDEX pipeline_versions_name_idx ON catalog.pipeline_versions (name);
CREATE TABLE catalog.pipelines (
    uid TEXT NOT NULL,
    name TEXT,
    version INTEGER,
    status TEXT,
    owner TEXT,
    labels JSONB,
    source TEXT,
    sink TEXT,
    pipeline JSONB,
    created_at TIMESTAMP WITH TIME ZONE,
    updated_at TIMESTAMP WITH TIME ZONE,
    deleted_at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT pipelines_pkey PRIMARY KEY (uid)
);
CREATE INDEX pipelines_name_idx ON catalog.pipelines (name);
CREATE TABLE catalog.policies (
    name TEXT NOT NULL,
    hash TEXT,
    origin TEXT,
    policy JSONB,
    at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT policies_pkey PRIMARY KEY (name)
);
CREATE TABLE catalog.policy_versions (
    "offset" BIGINT NOT NULL,
    name TEXT,
    hash TEXT,
    origin TEXT,
    policy JSONB,
    at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT policy_versions_pkey PRIMARY KEY ("offset")
);
CREATE INDEX policy_versions_hash_idx ON catalog.policy_versions (hash);
CREATE TABLE catalog.position (
    id TEXT NOT NULL,
    next BIGINT NOT NULL,
    reading JSONB NOT NULL,
    CONSTRAINT position_pkey PRIMARY KEY (id)
);
CREATE TABLE catalog.runs (
    id TEXT NOT NULL,
    pipeline TEXT,
    uid TEXT,
    version INTEGER,
    status TEXT,
    attempts INTEGER,
    requested_at TIMESTAMP WITH TIME ZONE,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    counters JSONB,
    seconds JSONB,
    error JSONB,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT runs_pkey PRIMARY KEY (id)
);
CREATE INDEX runs_offset_idx ON catalog.runs ("offset");
CREATE INDEX runs_pipeline_offset_idx ON catalog.runs (pipeline, "offset");
CREATE TABLE catalog.schema_versions (
    dataset TEXT NOT NULL,
    version INTEGER NOT NULL,
    fingerprint TEXT,
    fields JSONB,
    key JSONB,
    at TIMESTAMP WITH TIME ZONE,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT schema_versions_pkey PRIMARY KEY (dataset, version)
);
CREATE TABLE catalog.tasks (
    id TEXT NOT NULL,
    kind TEXT,
    pipeline TEXT,
    run TEXT,
    priority INTEGER,
    attempt INTEGER,
    worker TEXT,
    status TEXT,
    reason TEXT,
    queued_at TIMESTAMP WITH TIME ZONE,
    assigned_at TIMESTAMP WITH TIME ZONE,
    started_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    counters JSONB,
    seconds JSONB,
    error JSONB,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT tasks_pkey PRIMARY KEY (id)
);
CREATE INDEX tasks_offset_idx ON catalog.tasks ("offset");
CREATE INDEX tasks_run_idx ON catalog.tasks (run);
CREATE TABLE catalog.timers (
    timer TEXT NOT NULL,
    due TIMESTAMP WITH TIME ZONE,
    subject TEXT,
    status TEXT,
    requested_at TIMESTAMP WITH TIME ZONE,
    fired_at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT timers_pkey PRIMARY KEY (timer)
);
CREATE TABLE catalog.workers (
    worker TEXT NOT NULL,
    kinds TEXT[],
    slots INTEGER,
    status TEXT,
    reason TEXT,
    joined_at TIMESTAMP WITH TIME ZONE,
    lost_at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT workers_pkey PRIMARY KEY (worker)
);
CREATE TABLE ops.settings (
    name TEXT NOT NULL,
    value JSONB,
    CONSTRAINT settings_pkey PRIMARY KEY (name)
);
CREATE TABLE ops.snapshots (
    agent TEXT NOT NULL,
    "offset" BIGINT NOT NULL,
    rules INTEGER NOT NULL,
    state JSON NOT NULL,
    CONSTRAINT snapshots_pkey PRIMARY KEY (agent)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
