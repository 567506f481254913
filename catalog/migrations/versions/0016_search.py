from alembic import op

from catalog.migrations import EMPTIED

revision = "0016"
down_revision = "0011"

TABLES = """
ALTER TABLE catalog.datasets DROP COLUMN search, DROP COLUMN name_words, DROP COLUMN column_words,
  DROP COLUMN text_words;
DROP INDEX catalog.datasets_tags_idx;
ALTER TABLE catalog.datasets ADD COLUMN gone_at TIMESTAMP WITH TIME ZONE;
CREATE INDEX datasets_last_at_idx ON catalog.datasets (last_at);
CREATE TABLE catalog.search_entries (
    id TEXT NOT NULL,
    connection TEXT COLLATE "C",
    object TEXT COLLATE "C",
    kind TEXT,
    tags TEXT[],
    texts TEXT,
    gone BOOLEAN,
    sampled BOOLEAN,
    search TSVECTOR,
    changed BIGINT NOT NULL,
    CONSTRAINT search_entries_pkey PRIMARY KEY (id)
);
CREATE INDEX search_entries_search_idx ON catalog.search_entries USING gin (search);
CREATE INDEX search_entries_sample_idx ON catalog.search_entries USING gin (search) WHERE sampled;
CREATE INDEX search_entries_name_idx ON catalog.search_entries (connection, object);
CREATE TABLE catalog.words (
    word TEXT NOT NULL,
    trigrams TEXT[],
    changed BIGINT NOT NULL,
    CONSTRAINT words_pkey PRIMARY KEY (word)
);
CREATE INDEX words_trigrams_idx ON catalog.words USING gin (trigrams);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
    op.get_bind().exec_driver_sql(EMPTIED)
