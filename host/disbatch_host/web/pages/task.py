"""One task: what became of it and why, its parameters, its story, its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disbatch_host import suggested
from disbatch_host.client.history import reason_in_short, was_never_started
from disbatch_host.client.output_places import STREAMS
from disbatch_host.documents.earlier_outputs import facts_of
from disbatch_host.documents.records import Task, whole_number
from disbatch_host.errors import DisbatchError
from disbatch_host.web.api.tasks import actions_of, task_of
from disbatch_host.web.pages import output
from disbatch_host.web.pages.page import Html, Page, SeeOther, Shown, View, number_in
from disbatch_host.web.pages.remedies import remedy_for
from disbatch_host.web.pages.retry import retry_with_others
from disbatch_host.web.pages.words import moment
from disbatch_host.web.problems import Code
from disbatch_host.web.role import Role
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_TABS = (*STREAMS, "log", "result", "followups", "document")
_ICONS = {"failed": "✗", "terminated": "■", "running": "▸", "concluded": "✓", "orphaned": "?", "cancelled": "⊘"}
_FOLLOW_UPS_MAX = 100


def _show(view: View) -> Shown:
    document = view.ask("GET /tasks/{id}", id=view.path["id"]).body
    task = task_of(view.call)
    if str(task.id) != view.path["id"]:
        return SeeOther(to=view.url("tasks", str(task.id), query=view.query))
    is_finished = statuses.is_finished(task.status) or task.fault is not None
    chosen = output.attempt_in(task, view.get("attempt"))
    kept = output.sizes(view.client, task, chosen)
    tab = _tab(view, task, kept)
    run = document.get("run") or {}
    word = statuses.name(task.status) if task.fault is None else "damaged"
    why = document.get("why") if task.fault is None else None
    values = {
        "task": document if task.fault is None else {**document, **document["document"]}, "run": run, "word": word,
        "fault": task.fault, "tab": tab, "kept": kept, "attempts": _attempts(document, task),
        "actions": _actions(view, task), "part": _part(view, task, chosen, tab, kept),
        "error": None if task.status == Status.CONCLUDED else document.get("error"),
        "reason": reason_in_short(task) if task.status != Status.CONCLUDED else "",
        "cause": _cause(view, document) if is_finished else None,
        "commands": _commands(view, task, tab), "is_finished": is_finished,
        "followups": _follow_ups(view, task) if tab == "followups" else None, "find": view.get("find"),
        "wraps": bool(view.get("wrap")), "is_plain": bool(view.get("plain")), "class_name": _class_of(view, task, run),
        "duration": _seconds(view, run), "max_attempts": _max_attempts(view, task), "why": why,
        "remedy": None if why is None else remedy_for(why["code"], str(task.queue), view.can),
        "chosen": whole_number(chosen.get("attempt")) or 0, "is_current": chosen is task.run,
        "printed": kept if chosen is task.run or is_finished else output.sizes(view.client, task, task.run),
        "is_in_hand": task.status in statuses.IN_HAND, "dropped": facts_of(chosen, tab).get("dropped_bytes"),
    }  # fmt: skip
    icon = _ICONS.get(word.partition(" ")[0], "·")
    return Html(template="task.html", title=f"{icon} {task.queue} {str(task.id)[:8]}…", values=values)


def _tab(view: View, task: Task, kept: Mapping[str, int]) -> str:
    tab = view.get("tab") or view.get("stream") or output.first_stream(task, kept)
    if task.fault is not None and tab in STREAMS:
        return "document"
    return tab if tab in _TABS else "stdout"


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
    if isinstance(run.get("seconds"), (int, float)):
        return float(run["seconds"])
    started = moment(run.get("started"))
    return None if started is None else max(0.0, (view.now - started).total_seconds())


def _actions(view: View, task: Task) -> list[str]:
    """What fits its state and this role; none of the others is there."""
    if task.fault is not None:
        return []
    return [one for one in actions_of(task) if view.can("admin" if one == "delete" else "operate")]


def _attempts(document: Mapping[str, Any], task: Task) -> list[dict[str, Any]]:
    """The newest first; the one that runs or was the last among them."""
    if task.fault is not None:
        return []
    earlier = [one for one in document.get("attempts") or () if isinstance(one, Mapping)]
    run = document.get("run") or {}
    last = [run] if run.get("attempt") and (not earlier or earlier[-1].get("started") != run.get("started")) else []
    found: list[Mapping[str, Any]] = [
        *earlier,
        *({**one, "is_current": True, "error": document.get("error")} for one in last),
    ]
    return [_attempt(one, number) for number, one in enumerate(found, 1)][::-1]


def _attempt(run: Mapping[str, Any], number: int) -> dict[str, Any]:
    """With what is known of its output: the sizes of its streams; None where it is not kept."""
    is_kept = run.get("is_current") or isinstance(run.get("output"), Mapping) or was_never_started(run)
    sizes = {one: whole_number(facts_of(run, one).get("bytes")) or 0 for one in STREAMS} if is_kept else None
    return {**run, "number": run.get("attempt") or number, "printed": sizes}


def _cause(view: View, document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The group of its failure, and how many others are in it."""
    error = document.get("error")
    group = error.get("group") if isinstance(error, Mapping) else None
    key = group.get("key") if isinstance(group, Mapping) else None
    if not isinstance(key, str):
        return None
    counted = view.ask("GET /tasks/count", query={"failure": key}).body
    return {"key": key, "others": max(0, counted["value"] - 1), "is_exact": counted["is_exact"]}


def _part(
    view: View, task: Task, run: Mapping[str, Any], tab: str, kept: Mapping[str, int]
) -> output.Part | None:  # fmt: skip
    if tab not in STREAMS or task.fault is not None or not (run.get("attempt") or kept[tab]):
        return None
    wish = output.Wish(
        at=number_in(view.get("at")), find=view.get("find")[:200], hit=number_in(view.get("hit")),
        is_plain=bool(view.get("plain")),
    )  # fmt: skip
    return output.part_of(view.client, task, run, tab, kept[tab], wish)


def _follow_ups(view: View, task: Task) -> list[dict[str, Any]]:
    """The tasks that its run created."""
    items = view.ask("GET /tasks", query={"parent": str(task.id), "limit": _FOLLOW_UPS_MAX}).body["items"]
    return [{"id": one["_id"], "status": one.get("status"), "queue": one.get("queue")} for one in items]


def _commands(view: View, task: Task, tab: str) -> list[str]:
    """The same at a terminal: what is shown, and what this person may do."""
    words = ["--stderr"] if tab == "stderr" else []
    if not statuses.is_finished(task.status):
        words.append("--follow")
    found = [suggested.command("task show", task.id), suggested.command("task output", task.id, *words)]
    acts = [one for one in _actions(view, task) if one in ("cancel", "retry", "release")]
    why, bundle = task.status in statuses.UNFINISHED, view.can("operate")
    others = [*(["why"] if why else []), *acts, *(["bundle"] if bundle else [])]
    return [*found, *(suggested.command(f"task {one}", task.id) for one in others)]


def _act(action: str) -> Any:
    def act(view: View) -> Shown:
        if action == "retry" and view.given("as"):
            return retry_with_others(view)
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


PAGES = (
    Page(path="/tasks/{id}", does=_show, about=Code.TASK),
    *(
        Page(
            path=f"/tasks/{{id}}/{action}", does=_act(action), method="POST", role=Role.OPERATE, about=Code.TASK,
            form_max_bytes=16 * 2**20 if action == "retry" else 2**20,
        )
        for action in ("cancel", "retry", "release")
    ),
    Page(path="/tasks/{id}/delete", does=_delete, method="POST", role=Role.ADMIN, about=Code.TASK),
)  # fmt: skip
