"""What sources and sinks on PostgreSQL share: sessions with clear errors, and the exact shape of tables."""
