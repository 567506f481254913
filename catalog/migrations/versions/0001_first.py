from alembic import op
from sqlalchemy import text

from catalog.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(text("CREATE SCHEMA catalog"))
    metadata.create_all(op.get_bind(), checkfirst=False)
