"""Task, queue and node documents: how they are read, and every change that they may undergo. Pure."""
