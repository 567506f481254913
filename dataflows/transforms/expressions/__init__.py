"""Compile SQL scalar expressions to Polars by one allow-list, and check them without a system."""
