"""Change data capture: a table of PostgreSQL as a stream of its changes, by logical replication."""
