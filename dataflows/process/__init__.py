"""The base of every process of Penstock: its site, its leader, signals and its parent."""
