from alembic import op

revision = "0009"
down_revision = "0008"

TABLES = """
CREATE TABLE ops.sink_states (
    pipeline TEXT NOT NULL,
    sink TEXT NOT NULL,
    identity TEXT NOT NULL,
    CONSTRAINT sink_states_pkey PRIMARY KEY (pipeline, sink)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
