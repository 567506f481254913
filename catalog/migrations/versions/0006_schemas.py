from alembic import op

from catalog.migrations import EMPTIED

revision = "0006"
down_revision = "0005"

TABLES = """
ALTER TABLE catalog.datasets ADD COLUMN schema JSONB;
ALTER TABLE catalog.datasets ADD COLUMN compatibility TEXT;
ALTER TABLE catalog.schema_versions ADD COLUMN schema JSONB;
ALTER TABLE catalog.schema_versions ADD COLUMN actor TEXT;
ALTER TABLE catalog.schema_versions ADD COLUMN cause BIGINT;
ALTER TABLE catalog.schema_versions DROP COLUMN fields;
ALTER TABLE catalog.schema_versions DROP COLUMN key;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
