from alembic import op

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

REPLAYED = """
DO $$
DECLARE one text;
BEGIN
    FOR one IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'catalog' LOOP
        EXECUTE 'TRUNCATE catalog.' || one;
    END LOOP;
END $$;
"""
"""Without rows and position the projector folds the whole log again, and fills the new columns."""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(REPLAYED)
