"""A plugin on disk, and the promises made to its program. Never a task document."""
