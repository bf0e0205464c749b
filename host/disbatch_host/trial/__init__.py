"""Trials of plugins without a node or a store: `check --run`, `check --torture`, `exec`."""
