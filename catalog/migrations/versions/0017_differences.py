from alembic import op

revision = "0017"
down_revision = "0016"

TABLES = """
CREATE TABLE ops.differences (
    pipeline TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    rows JSONB NOT NULL,
    CONSTRAINT differences_pkey PRIMARY KEY (pipeline)
);
CREATE INDEX differences_at_idx ON ops.differences (at);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
