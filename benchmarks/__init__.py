"""Measurements, by hand: ``make bench ARGS="copy --rows 1000000"``. None of them is a test."""
