"""Services of a node: each has `start()` and `stop()`, and stopping twice is fine."""
