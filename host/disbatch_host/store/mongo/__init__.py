"""The cluster's store: any MongoDB that users have, in the documents of den-1.0.

The only package that imports pymongo. `store` has the protocols of `contract`, and the queries that nothing else needs;
these are its parts:

- `claims` and `claim_order` (which tasks a node gets), `run_changes`, `follow_ups` and `output_files` (what becomes of
  runs), `creation`, `task_changes` and `promotion` (what people, other nodes and time do to tasks), `queues`, `nodes`;
- `reading` and `passed_over`, documents of others that cannot be read, or with which nothing can be done;
- `unique_keys` and `limits`, rules that span several documents;
- `server_clock` and `ids`, `updates` (batches), `forms` (conditions and updates, pure), `layout` (version and
  indexes), `watcher` (noticing changes), `driver_errors` (the driver's exceptions, translated).
"""

from disbatch_host.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
