"""What every process of Penstock stands on: its site, its leader, signals and its parent."""
