"""Code that SQL systems share: names, state, merges, and sources and sinks of databases in one file."""
