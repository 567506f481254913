"""Alembic's environment: it runs the migrations on the connection and in the transaction of `catalog.database`."""

from alembic import context

from catalog.tables import OPS, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    version_table_schema=OPS,
)
context.run_migrations()
