from alembic import op

from catalog.migrations import EMPTIED

revision = "0024"
down_revision = "0023"

TABLES = """
ALTER TABLE catalog.errors
    ADD COLUMN fingerprint TEXT, ADD COLUMN classified JSONB, ADD COLUMN diagnosis JSONB, ADD COLUMN strategy JSONB;
CREATE INDEX errors_fingerprint_offset_idx ON catalog.errors (fingerprint, "offset");
CREATE TABLE catalog.faults (
    fingerprint TEXT NOT NULL,
    code TEXT,
    kind TEXT,
    connection TEXT,
    template TEXT,
    count BIGINT,
    first_at TIMESTAMP WITH TIME ZONE,
    last_at TIMESTAMP WITH TIME ZONE,
    last BIGINT,
    pipelines JSONB,
    error_id TEXT,
    error JSONB,
    diagnosis JSONB,
    outcomes JSONB,
    changed BIGINT NOT NULL,
    CONSTRAINT faults_pkey PRIMARY KEY (fingerprint)
);
CREATE INDEX faults_last_idx ON catalog.faults (last);
CREATE TABLE catalog.incidents (
    id TEXT NOT NULL,
    fingerprint TEXT,
    pipeline TEXT,
    connection TEXT,
    kind TEXT,
    status TEXT,
    what TEXT,
    incident JSONB,
    repeats BIGINT,
    opened_at TIMESTAMP WITH TIME ZONE,
    last_at TIMESTAMP WITH TIME ZONE,
    closed_at TIMESTAMP WITH TIME ZONE,
    reason TEXT,
    changed BIGINT NOT NULL,
    CONSTRAINT incidents_pkey PRIMARY KEY (id)
);
CREATE INDEX incidents_status_idx ON catalog.incidents (status);
CREATE TABLE catalog.breakers (
    connection TEXT NOT NULL,
    status TEXT,
    failures INTEGER,
    reason TEXT,
    until TIMESTAMP WITH TIME ZONE,
    at TIMESTAMP WITH TIME ZONE,
    changed BIGINT NOT NULL,
    CONSTRAINT breakers_pkey PRIMARY KEY (connection)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
