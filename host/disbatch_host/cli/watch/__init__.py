"""`status --watch`: the screen and what is drawn on it."""
