"""Turn the bytes of files, pages and messages into rows, and back: CSV, JSON lines, Parquet."""
