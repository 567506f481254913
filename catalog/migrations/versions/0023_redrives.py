from alembic import op

revision = "0023"
down_revision = "0022"

TABLES = r"""
ALTER TABLE ops.dead_letters
    ADD COLUMN fingerprint TEXT GENERATED ALWAYS AS (left(md5(
        regexp_replace(step, ' \(\d+\)$', '') || E'\x1f' || code || E'\x1f' || regexp_replace(regexp_replace(
            regexp_replace(regexp_replace(reason, ', got .*$', ', got ?'), '''[^'']*''|"[^"]*"', '?', 'g'),
            '\m[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\M', '#', 'g'), '\m\d+([.,]\d+)*', '#', 'g')), 12)) STORED,
    ADD COLUMN redrive TEXT,
    ADD COLUMN redrive_split INTEGER,
    ADD COLUMN redrive_row INTEGER,
    ADD COLUMN refused_again BOOLEAN;
CREATE INDEX dead_letters_redrive_idx ON ops.dead_letters (pipeline, redrive) WHERE redrive IS NOT NULL;
CREATE TABLE ops.redrives (
    id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    chosen BIGINT NOT NULL,
    fix JSONB,
    receipt JSONB,
    CONSTRAINT redrives_pkey PRIMARY KEY (id)
);
CREATE INDEX redrives_pipeline_at_idx ON ops.redrives (pipeline, at);
ALTER TABLE catalog.pipelines ADD COLUMN letters JSONB;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
