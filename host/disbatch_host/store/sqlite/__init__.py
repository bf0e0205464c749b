"""The embedded store: one SQLite file, any number of processes of one machine.

The only package that imports sqlite3. `store` has the protocols of `contract`; these are its parts: `session` (the
connection and its transactions), `layout` (tables, indexes, triggers, older versions), `fields` and `records`
(documents to columns, rows to records; pure), `json_text` and `moments` (values as a column holds them; pure),
`conditions` (tasks as SQL; pure), `creation`, `guarded_changes`, `claims`, `gates`, `rates`, `promotion` and `due` (the
work of a transaction on tasks), `passed_over` (rows that cannot be used), `ids`, `watcher` (noticing changes),
`connections` (to the file), `same_file` (that it is still there) and `driver_errors` (the driver's exceptions,
translated to the host's).
"""

from disbatch_host.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
