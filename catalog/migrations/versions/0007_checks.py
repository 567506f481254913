from alembic import op

revision = "0007"
down_revision = "0006"

TABLES = """
ALTER TABLE catalog.pipelines ADD COLUMN checked JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
