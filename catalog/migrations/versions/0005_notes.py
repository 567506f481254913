from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = """
ALTER TABLE catalog.runs ADD COLUMN notes JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
