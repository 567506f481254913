from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
ALTER TABLE catalog.runs ADD COLUMN resumed BOOLEAN, ADD COLUMN scheduled_for TIMESTAMP WITH TIME ZONE;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
