"""Alerts, what silences them, and how unusual the last values of metrics were."""

from alembic import op

from catalog.migrations import EMPTIED

revision = "0028"
down_revision = "0027"

TABLES = """
CREATE TABLE catalog.alerts (
    id TEXT NOT NULL, cause TEXT, pipeline TEXT, kind TEXT, metric TEXT, severity TEXT, status TEXT, summary TEXT,
    alert JSONB, since TIMESTAMPTZ, opened_at TIMESTAMPTZ, last_at TIMESTAMPTZ, closed_at TIMESTAMPTZ, reason TEXT,
    snooze JSONB, "offset" BIGINT, changed BIGINT NOT NULL,
    CONSTRAINT alerts_pkey PRIMARY KEY (id)
);
CREATE INDEX alerts_status_idx ON catalog.alerts (status);
CREATE INDEX alerts_offset_idx ON catalog.alerts ("offset");
CREATE TABLE catalog.silences (
    id TEXT NOT NULL, pipeline TEXT, metric TEXT, until TIMESTAMPTZ, why TEXT, by TEXT, at TIMESTAMPTZ,
    changed BIGINT NOT NULL,
    CONSTRAINT silences_pkey PRIMARY KEY (id)
);
CREATE TABLE catalog.scores (
    id TEXT NOT NULL, pipeline TEXT, metric TEXT, part TEXT, at TIMESTAMPTZ, score DOUBLE PRECISION, numbers JSONB,
    "offset" BIGINT, changed BIGINT NOT NULL,
    CONSTRAINT scores_pkey PRIMARY KEY (id)
);
CREATE INDEX scores_pipeline_idx ON catalog.scores (pipeline);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
