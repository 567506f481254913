from alembic import op

revision = "0025"
down_revision = "0024"

TABLES = """
CREATE TABLE ops.metric_series (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    pipeline TEXT NOT NULL,
    metric TEXT NOT NULL,
    part TEXT NOT NULL,
    count BIGINT NOT NULL,
    sum DOUBLE PRECISION NOT NULL,
    min DOUBLE PRECISION NOT NULL,
    max DOUBLE PRECISION NOT NULL,
    last DOUBLE PRECISION NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    parts JSONB NOT NULL,
    CONSTRAINT metric_series_pkey PRIMARY KEY (id),
    CONSTRAINT metric_series_pipeline_metric_part_key UNIQUE (pipeline, metric, part)
);
CREATE TABLE ops.metrics_1s (
    series INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    count BIGINT NOT NULL,
    sum DOUBLE PRECISION NOT NULL,
    min DOUBLE PRECISION NOT NULL,
    max DOUBLE PRECISION NOT NULL,
    last DOUBLE PRECISION NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    parts JSONB NOT NULL,
    CONSTRAINT metrics_1s_pkey PRIMARY KEY (series, at)
) PARTITION BY RANGE (at);
CREATE TABLE ops.metrics_1m (
    series INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    count BIGINT NOT NULL,
    sum DOUBLE PRECISION NOT NULL,
    min DOUBLE PRECISION NOT NULL,
    max DOUBLE PRECISION NOT NULL,
    last DOUBLE PRECISION NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    parts JSONB NOT NULL,
    CONSTRAINT metrics_1m_pkey PRIMARY KEY (series, at)
) PARTITION BY RANGE (at);
CREATE TABLE ops.metrics_1h (
    series INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    count BIGINT NOT NULL,
    sum DOUBLE PRECISION NOT NULL,
    min DOUBLE PRECISION NOT NULL,
    max DOUBLE PRECISION NOT NULL,
    last DOUBLE PRECISION NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE NOT NULL,
    parts JSONB NOT NULL,
    CONSTRAINT metrics_1h_pkey PRIMARY KEY (series, at)
) PARTITION BY RANGE (at);
CREATE TABLE ops.metric_runs (
    subject TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    seen JSONB NOT NULL,
    total JSONB NOT NULL,
    done BOOLEAN NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT metric_runs_pkey PRIMARY KEY (subject)
);
CREATE INDEX metric_runs_open_idx ON ops.metric_runs (subject) WHERE NOT done;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
