from alembic import op

revision = "0019"
down_revision = "0018"

TABLES = """
ALTER TABLE ops.profiles ADD COLUMN tried TIMESTAMP WITH TIME ZONE;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
