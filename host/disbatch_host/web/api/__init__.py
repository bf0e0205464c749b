"""The routes of the API: one table, in the order in which docs/api.md has them."""

from __future__ import annotations

from disbatch_host.web import openapi
from disbatch_host.web.api import (
    batch_changes,
    batches,
    exports,
    failures,
    following,
    general,
    imports,
    nodes,
    operations,
    outputs,
    overview,
    plugins,
    queues,
    tasks,
)
from disbatch_host.web.route import Route

_OTHERS: tuple[Route, ...] = (
    *general.ROUTES, *overview.ROUTES, *queues.ROUTES, *exports.ROUTES, *tasks.ROUTES, *outputs.ROUTES,
    *following.ROUTES, *operations.ROUTES, *imports.ROUTES, *batches.ROUTES, *batch_changes.ROUTES, *failures.ROUTES,
    *nodes.ROUTES, *plugins.ROUTES,
)  # fmt: skip
ROUTES = (*_OTHERS, openapi.route_of(_OTHERS))
