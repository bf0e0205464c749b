"""The server-rendered page: one module for each screen, and the table of them.

Responsible for: what is at which address. Must not know: how a screen is made.
"""

from __future__ import annotations

from disbatch_host.web.pages import (
    api,
    batches,
    failures,
    import_file,
    imports,
    nodes,
    operations,
    overview,
    plugins,
    push,
    queues,
    retry,
    searching,
    task,
    tasks,
)  # fmt: skip
from disbatch_host.web.pages.page import Page
from disbatch_protocol.faults import near_name

PAGES: tuple[Page, ...] = (
    *overview.PAGES, *queues.PAGES, *push.PAGES, *tasks.PAGES, *task.PAGES, *retry.PAGES, *failures.PAGES,
    *batches.PAGES, *nodes.PAGES, *operations.PAGES, *plugins.PAGES, *searching.PAGES, *import_file.PAGES,
    *imports.PAGES, *api.PAGES,
)  # fmt: skip
_FIRST = ("overview", "queues", "tasks", "failures", "batches", "nodes", "plugins", "operations", "imports", "api")


def near(path: str) -> tuple[str, ...]:
    """The sections whose names are like what an address begins with."""
    wanted = path.strip("/").partition("/")[0].lower()
    found = near_name(wanted, _FIRST) if wanted else None
    return () if found is None else (found,)
