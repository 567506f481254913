from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE ops.dead_letters (
    day DATE NOT NULL,
    id UUID NOT NULL,
    pipeline TEXT NOT NULL,
    name TEXT NOT NULL,
    run TEXT NOT NULL,
    split INTEGER NOT NULL,
    row BIGINT NOT NULL,
    step TEXT NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    values JSONB NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
CREATE INDEX dead_letters_pipeline_run_split_idx ON ops.dead_letters (pipeline, run, split);
CREATE INDEX dead_letters_name_at_idx ON ops.dead_letters (name, at);
CREATE TABLE ops.dead_letter_owners (
    pipeline TEXT NOT NULL,
    token TEXT NOT NULL,
    CONSTRAINT dead_letter_owners_pkey PRIMARY KEY (pipeline)
);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
