"""The embedded store: one SQLite file, any number of processes of one machine.

The only package that imports sqlite3. `store` has the protocols of `contract`; the rest is what it is made of: `layout`
(tables, indexes, triggers, older versions), `fields` and `records` (documents to columns, rows to records; pure),
`json_text` and `moments` (values as a column holds them; pure), `conditions` (which tasks; pure), `creation`,
`guarded_changes`, `claims` and `rates` (what a transaction does to tasks), `ids`, `watcher` (what has changed),
`connections` (to the file) and `driver_errors` (the driver's exceptions as the host's).
"""

from disbatch_host.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
