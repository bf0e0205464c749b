"""What Prometheus reads of a node: counters, a census of the store, and the server that answers."""
