"""Decisions as pure functions over snapshots; one place elsewhere carries each out."""
