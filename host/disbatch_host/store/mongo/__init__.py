"""The cluster's store: any MongoDB that users have, in the documents of den-1.0.

The only package that imports pymongo. `store` has the interface of `base`; the rest is what it is made of: `layout`
(version and indexes), `forms` (conditions and updates, pure), `unique_keys` and `limits` (what holds over several
documents), `watcher` (what has changed), `driver_errors` (the driver's exceptions as the host's).
"""

from disbatch_host.store.mongo.store import MongoStore

__all__ = ["MongoStore"]
