from alembic import op

revision = "0018"
down_revision = "0017"

TABLES = """
ALTER TABLE catalog.pipelines ADD COLUMN deletes JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
