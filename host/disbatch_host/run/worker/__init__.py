"""Worker mode: processes that take many tasks, one at a time."""
