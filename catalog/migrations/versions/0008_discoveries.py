from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = """
ALTER TABLE catalog.datasets ADD COLUMN outline TEXT;
ALTER TABLE catalog.datasets ADD COLUMN rows BIGINT;
ALTER TABLE catalog.datasets ADD COLUMN bytes BIGINT;
ALTER TABLE catalog.datasets ADD COLUMN profile JSONB;
ALTER TABLE catalog.datasets ADD COLUMN profiled TEXT;
ALTER TABLE catalog.datasets ADD COLUMN profiled_at TIMESTAMP WITH TIME ZONE;
CREATE TABLE catalog.discoveries (
    id TEXT NOT NULL,
    connection TEXT,
    status TEXT,
    discovery JSONB,
    found JSONB,
    notes JSONB,
    error JSONB,
    requested_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT discoveries_pkey PRIMARY KEY (id)
);
CREATE INDEX discoveries_connection_offset_idx ON catalog.discoveries (connection, "offset");
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
