from alembic import op

from catalog.migrations import EMPTIED

revision = "0020"
down_revision = "0019"

TABLES = """
ALTER TABLE catalog.datasets ADD COLUMN seen JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
