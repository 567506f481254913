from alembic import op

revision = "0021"
down_revision = "0020"

TABLES = """
ALTER TABLE catalog.runs ADD COLUMN after JSONB;
ALTER TABLE catalog.pipelines ADD COLUMN accepted JSONB;
DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'catalog' LOOP
        EXECUTE 'TRUNCATE catalog.' || one;
    END LOOP;
END $$;
"""
"""Without rows and position the projector folds the whole log again, and fills the new columns."""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
