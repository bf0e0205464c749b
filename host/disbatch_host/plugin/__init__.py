"""A plugin on disk, and what its program is promised. Never a task document."""
