"""The user's files: read, made into rows, divided."""
