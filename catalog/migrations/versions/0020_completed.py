from alembic import op

revision = "0020"
down_revision = "0019"

TABLES = """
ALTER TABLE catalog.datasets ADD COLUMN seen JSONB;
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
"""Without rows and position the projector folds the whole log again, and fills the new column."""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(REPLAYED)
