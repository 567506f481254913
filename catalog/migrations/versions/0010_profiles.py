from alembic import op

revision = "0010"
down_revision = "0009"

TABLES = """
CREATE TABLE ops.profiles (
    dataset TEXT NOT NULL,
    connection TEXT NOT NULL,
    object TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    columns JSONB NOT NULL,
    CONSTRAINT profiles_pkey PRIMARY KEY (dataset)
);
CREATE INDEX profiles_at_idx ON ops.profiles (at);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)
