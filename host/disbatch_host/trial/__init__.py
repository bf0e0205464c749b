"""Plugins tried out without a node and a store: `check --run`, `check --torture`, `exec`."""
