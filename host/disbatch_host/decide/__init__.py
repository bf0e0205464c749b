"""Decisions as pure functions over snapshots; each is carried out in one place elsewhere."""
