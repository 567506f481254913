"""Other tools that move tables: how each is set up, and how it is told to make a move. Each in a place of its own."""
