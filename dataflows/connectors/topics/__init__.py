"""Topics of Penstock's own log on PostgreSQL, as streams."""
