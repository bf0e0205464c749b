"""One task: what became of it and why, its parameters, its story, its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host import suggested
from disbatch_host.client.history import reason_in_short
from disbatch_host.client.output_places import STREAMS
from disbatch_host.documents.records import Task
from disbatch_host.errors import DisbatchError
from disbatch_host.web.api.tasks import task_of
from disbatch_host.web.pages import output
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_TABS = ("stdout", "stderr", "log", "result", "followups", "document")
_ICONS = {"failed": "✗", "terminated": "■", "running": "▸", "concluded": "✓", "orphaned": "?", "cancelled": "⊘"}
_FOLLOW_UPS_MAX = 100
_NAMED_MAX = 200


def _show(view: View) -> Shown:
    document = view.ask("GET /tasks/{id}", id=view.path["id"]).body
    task = task_of(view.call)
    if str(task.id) != view.path["id"]:
        return SeeOther(to=view.url("tasks", str(task.id), query=view.query))
    kept = output.sizes(view.client, task)
    tab = view.get("tab") or view.get("stream") or output.first_stream(task, kept)
    tab = tab if tab in _TABS else "stdout"
    run = document.get("run") or {}
    word = statuses.name(task.status) if task.fault is None else "damaged"
    values = {
        "task": document if task.fault is None else {**document, **document["document"]}, "run": run, "word": word,
        "fault": task.fault, "tab": tab, "kept": kept, "attempts": _attempts(document), "actions": _actions(view, task),
        "part": _part(view, task, tab, kept),
        "error": None if task.status == Status.CONCLUDED else document.get("error"),
        "reason": reason_in_short(task) if task.status != Status.CONCLUDED else "", "cause": _cause(document),
        "commands": _commands(task, tab), "is_finished": statuses.is_finished(task.status) or task.fault is not None,
        "followups": _follow_ups(view, task) if tab == "followups" else None, "find": view.get("find"),
        "wraps": bool(view.get("wrap")), "is_plain": bool(view.get("plain")), "class_name": _class_of(view, task, run),
        "duration": _seconds(view, run),
        "max_attempts": _max_attempts(view, task),
    }  # fmt: skip
    icon = _ICONS.get(word.partition(" ")[0], "·")
    return Html(template="task.html", title=f"{icon} {task.queue} {str(task.id)[:8]}…", values=values)


def _class_of(view: View, task: Task, run: Mapping[str, Any]) -> str:
    plugin = run.get("plugin")
    if isinstance(plugin, Mapping):
        return f"{plugin.get('class', '')} {plugin.get('version', '')}".strip()
    queue = view.client.store.find_queue(str(task.queue))
    return "" if queue is None else queue.class_name


def _max_attempts(view: View, task: Task) -> int | None:
    """How many there may be."""
    try:
        plugin = view.client.plugins.of_queue(str(task.queue))
    except DisbatchError:
        return None
    return None if plugin is None else plugin.manifest.retry.max + 1


def _seconds(view: View, run: Mapping[str, Any]) -> float | None:
    """How long it took, or has been running."""
    from disbatch_host.web.pages.words import moment  # noqa: PLC0415

    if isinstance(run.get("seconds"), (int, float)):
        return float(run["seconds"])
    started = moment(run.get("started"))
    return None if started is None else max(0.0, (view.now - started).total_seconds())


def _actions(view: View, task: Task) -> list[str]:
    """What fits its state and this role; none of the others is there."""
    if task.fault is not None:
        return []
    from disbatch_host.web.api.tasks import actions_of  # noqa: PLC0415

    return [one for one in actions_of(task) if view.can("admin" if one == "delete" else "operate")]


def _attempts(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The newest first; the one that runs or was the last among them."""
    earlier = [one for one in document.get("attempts") or () if isinstance(one, Mapping)]
    run = document.get("run") or {}
    last = [run] if run.get("attempt") and (not earlier or earlier[-1].get("started") != run.get("started")) else []
    found: list[Mapping[str, Any]] = [
        *earlier,
        *({**one, "is_current": True, "error": document.get("error")} for one in last),
    ]
    return [{**one, "number": one.get("attempt") or number} for number, one in enumerate(found, 1)][::-1]


def _cause(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The group of its failure, which others may have too."""
    error = document.get("error")
    group = error.get("group") if isinstance(error, Mapping) else None
    key = group.get("key") if isinstance(group, Mapping) else None
    return {"key": key} if isinstance(key, str) else None


def _part(view: View, task: Task, tab: str, kept: Mapping[str, int]) -> output.Part | None:
    if tab not in STREAMS or task.fault is not None:
        return None
    at = view.get("at")
    return output.part_of(
        view.client, task, tab, kept[tab], at=int(at) if at.isdigit() and len(at) < 16 else None,
        find=view.get("find")[:200], is_plain=bool(view.get("plain")),
    )  # fmt: skip


def _follow_ups(view: View, task: Task) -> list[dict[str, Any]]:
    """The tasks that its run created."""
    items = view.ask("GET /tasks", query={"parent": str(task.id), "limit": _FOLLOW_UPS_MAX}).body["items"]
    return [{"id": one["_id"], "status": one.get("status"), "queue": one.get("queue")} for one in items]


def _commands(task: Task, tab: str) -> list[str]:
    """The same at a terminal."""
    stream = ["--stderr"] if tab == "stderr" else []
    found = [suggested.command("task show", task.id), suggested.command("task output", task.id, *stream)]
    others = ["task retry"] if statuses.is_finished(task.status) else ["task why", "task cancel"]
    return [*found, *(suggested.command(one, task.id) for one in others)]


def _act(action: str) -> Any:
    def act(view: View) -> Shown:
        reason = view.given("reason").strip()
        answer = view.ask(
            f"POST /tasks/{{id}}/{action}", body={"reason": reason} if reason else None, id=view.path["id"]
        )
        query = {"done": answer.body["outcome"]} if answer.body else {}
        return SeeOther(to=view.url("tasks", view.path["id"], query=query))

    return act


def _delete(view: View) -> Shown:
    queue = str(task_of(view.call).queue)
    view.ask("DELETE /tasks/{id}", id=view.path["id"])
    return SeeOther(to=view.url("tasks", query={"queue": queue}))


def _download(view: View) -> Shown:
    """Where the API has the whole stream."""
    base = view.call.link("tasks", view.path["id"], "output", view.path["stream"])
    return SeeOther(to=f"{base}?download=yes")


PAGES = (
    Page(path="/tasks/{id}", does=_show, about=Code.TASK),
    *(
        Page(path=f"/tasks/{{id}}/{action}", does=_act(action), method="POST", role=Role.OPERATE, about=Code.TASK)
        for action in ("cancel", "retry", "release")
    ),
    Page(path="/tasks/{id}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.TASK),
)
