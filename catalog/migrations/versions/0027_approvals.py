from alembic import op

from catalog.migrations import EMPTIED

revision = "0027"
down_revision = "0026"

TABLES = """
ALTER TABLE catalog.proposals ADD COLUMN plan JSONB, ADD COLUMN reason TEXT;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
