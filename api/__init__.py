"""User interfaces: the command line, and health over HTTP. Thin: parse, one call, render."""
