from alembic import op

from catalog.migrations import EMPTIED

revision = "0021"
down_revision = "0020"

TABLES = """
ALTER TABLE catalog.runs ADD COLUMN after JSONB;
ALTER TABLE catalog.pipelines ADD COLUMN accepted JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
