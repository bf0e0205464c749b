"""A node's metrics for Prometheus: counters, a census of the store, and the server that answers."""
