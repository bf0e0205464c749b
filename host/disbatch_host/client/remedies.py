"""The command that helps a task which waits, for each reason that a command can do something about. Pure.

Responsible for: these lines. Must not know: stores, terminals, why a task waits (`decide.why`).
"""

from __future__ import annotations

from disbatch_host import suggested
from disbatch_host.decide.why import Code
from disbatch_host.documents.records import TaskId


def remedy(code: Code, *, queue: str, task: TaskId | None = None) -> str | None:
    """What to type and what it does, on one line; None: nothing but time helps, or the sentence says it. `task`: the
    one that is asked about, if it is about one."""
    match code:
        case Code.PAUSED:
            return f"{suggested.hint('queue resume', queue)} lets nodes run it again"
        case Code.PAUSED_ON_FAILURES:
            causes = suggested.hint("task failures --queue", queue)
            return f"{causes} shows why; {suggested.hint('queue resume', queue)} lets nodes run it again"
        case Code.NO_NODE:
            return f"{suggested.a_node(())} runs one, DIR being where its plugins are"
        case Code.NO_PLUGIN:
            return f"a node with its plugin is needed: {suggested.hint('plugins')} shows those of this machine"
        case Code.BROKEN:
            return f"{suggested.plain_hint('check')} on that node says what is wrong"
        case Code.NO_QUEUE:
            return f"{suggested.hint('queue create', queue, '--class', 'CLASS')} makes it again"
        case Code.AFTER_FAILED if task is not None:
            return f"{suggested.hint('task release', task)} runs this one all the same"
        case Code.NOT_DUE if task is not None:
            return f"{suggested.hint('task release', task)} runs it now"
    return None
