from alembic import op

revision = "0026"
down_revision = "0025"

TABLES = """
CREATE TABLE ops.arrivals (
    pipeline TEXT NOT NULL,
    files TEXT NOT NULL,
    round BIGINT NOT NULL,
    seen TEXT NOT NULL,
    report JSONB NOT NULL,
    CONSTRAINT arrivals_pkey PRIMARY KEY (pipeline, files)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
