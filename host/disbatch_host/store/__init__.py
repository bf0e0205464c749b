"""Stores, where queues, tasks and nodes live. `contract` is the interface, `sqlite` and `mongo` implement it."""
