from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
ALTER TABLE catalog.runs ADD COLUMN reload JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
