"""Examples: folders to run, to apply, and to read."""
