"""`status --watch`: the screen and its content."""
