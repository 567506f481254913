from alembic import op

revision = "0030"
down_revision = "0029"

TABLES = """
ALTER TABLE ops.dead_letters ADD COLUMN change JSONB, ADD COLUMN overtaken BIGINT;
CREATE INDEX dead_letters_change_idx ON ops.dead_letters (pipeline) WHERE change IS NOT NULL;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
