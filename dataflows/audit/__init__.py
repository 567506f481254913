"""Does the log say what happened, and what would have been decided otherwise?"""
