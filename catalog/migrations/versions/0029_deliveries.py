"""The last receipt of each route of an alert."""

from alembic import op

from catalog.migrations import EMPTIED

revision = "0029"
down_revision = "0028"

TABLES = """
ALTER TABLE catalog.alerts ADD COLUMN delivered JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
