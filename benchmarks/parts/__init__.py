"""Parts that benchmarks share: a server with a table, a stopwatch, and the README's tables."""
