"""Transform rows between source and sink: mapping, steps, checks, and expressions."""
