"""Stores: where queues, tasks and nodes live. `base` is the interface, `sqlite` and `mongo` carry it out."""
