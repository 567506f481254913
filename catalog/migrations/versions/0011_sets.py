from alembic import op

revision = "0011"
down_revision = "0010"

TABLES = """
ALTER TABLE catalog.pipelines ADD COLUMN member_of TEXT;
CREATE INDEX pipelines_member_of_idx ON catalog.pipelines (member_of);
ALTER TABLE catalog.runs ADD COLUMN "group" TEXT;
CREATE INDEX runs_group_idx ON catalog.runs ("group");
CREATE TABLE catalog.set_pages (
    id TEXT NOT NULL,
    uid TEXT,
    page INTEGER,
    name TEXT,
    task TEXT,
    version INTEGER,
    last BOOLEAN,
    members INTEGER,
    refused JSONB,
    proposed JSONB,
    vanished JSONB,
    unmatched JSONB,
    at TIMESTAMP WITH TIME ZONE,
    "group" TEXT,
    queued BOOLEAN,
    runs INTEGER,
    skipped JSONB,
    changed BIGINT NOT NULL,
    CONSTRAINT set_pages_pkey PRIMARY KEY (id)
);
CREATE INDEX set_pages_uid_idx ON catalog.set_pages (uid);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
