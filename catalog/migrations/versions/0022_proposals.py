from alembic import op

revision = "0022"
down_revision = "0021"

TABLES = """
CREATE TABLE catalog.proposals (
    id TEXT NOT NULL,
    pipeline TEXT,
    uid TEXT,
    run TEXT,
    proposal JSONB,
    status TEXT,
    proposed_at TIMESTAMP WITH TIME ZONE,
    answered_at TIMESTAMP WITH TIME ZONE,
    by TEXT,
    "offset" BIGINT,
    changed BIGINT NOT NULL,
    CONSTRAINT proposals_pkey PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
