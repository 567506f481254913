"""How unusual is what a pipeline does? Scores of its metrics against their own history."""
