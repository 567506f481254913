"""Read rows from the bytes of files, pages and messages, and write them: CSV, JSON lines, Parquet."""
