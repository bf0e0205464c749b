"""Task, queue and node documents: as they are read, and every change they may undergo. Pure."""
