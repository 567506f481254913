"""What kind of error is it, where does it come from, and was it seen before?"""
