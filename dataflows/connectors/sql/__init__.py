"""What systems that speak SQL share: names, state, merges, and sources and sinks of databases in one file."""
