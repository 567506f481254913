"""Benchmarks, run by hand: ``make bench ARGS="copy --rows 1000000"``. They are not tests."""
