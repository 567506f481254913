"""The outside door: HTTP and the command line. Thin: parse, one call, render."""
