"""Other tools that move tables: how each is installed, in a folder of its own, and run."""
