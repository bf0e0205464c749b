"""What would help a task that waits: a sentence for each reason, and the link that leads there. Pure.

Responsible for: these words. Must not know: HTML, stores, why a task waits (`decide.why`).

Rules:
1. Only what the person may do is offered as a link: others get the sentence, and can ask somebody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from disbatch_host import suggested
from disbatch_host.decide.why import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to do. `link`: parts of an address of this site, empty if there is none."""

    words: str
    link: tuple[str, ...] = ()
    label: str = ""
    command: str = ""
    also: tuple[str, ...] = ()  # another link
    also_label: str = ""


def remedy_for(code: str, queue: str, can: Callable[[str], bool]) -> Remedy | None:
    """None: nothing but time helps."""
    own: tuple[str, ...] = ("queues", queue)
    match code:
        case Code.PAUSED | Code.PAUSED_ON_FAILURES:
            again = "once the failures are mended" if code == Code.PAUSED_ON_FAILURES else "when its reason is gone"
            return Remedy(words=f"Resume the queue {again}.", link=own, label=f"Queue {queue}")
        case Code.NO_NODE:
            return Remedy(
                words="Start a node whose plugins have this class, or look at those that were there.",
                link=("nodes",), label="Nodes", command="disbatch-host --plugins DIR",
            )  # fmt: skip
        case Code.NO_PLUGIN if can("admin"):
            words = "Install the plugin on a node, or give the queue the class that was meant."
            change = (*own, "change")
            return Remedy(words=words, link=change, label="Change the queue", also=("nodes",), also_label="Nodes")
        case Code.NO_PLUGIN | Code.SET_ASIDE | Code.BROKEN | Code.DRAINING:
            words = {
                Code.NO_PLUGIN: "Install the plugin on a node, or give the queue the class that was meant.",
                Code.SET_ASIDE: "Mend the plugin on its node; the node tries it again by itself.",
                Code.BROKEN: f"Mend the plugin on its node; {suggested.plain_hint('check')} says what is wrong.",
                Code.DRAINING: "Resume the node, or wait until it is started again.",
            }[Code(code)]
            return Remedy(words=words, link=("nodes",), label="Nodes")
        case Code.NO_QUEUE:
            words, may = f"Create queue {queue} again, or cancel the task.", can("admin")
            return Remedy(words=words, link=("queues", "new"), label="Create a queue") if may else Remedy(words=words)
        case Code.QUEUE_FAULT | Code.PINNED | Code.IGNORED | Code.MAXTOTAL | Code.MAXTHREADS | Code.RATE:
            words = {
                Code.QUEUE_FAULT: "Mend the document of the queue.",
                Code.PINNED: "Start the node that the queue is pinned to, or pin it to another one.",
                Code.IGNORED: "Let the node run the queue again, or start another node.",
                Code.RATE: "Wait, or raise the rate of the queue.",
            }.get(Code(code), "Wait for a task to end, or raise the limit.")
            if can("admin"):
                return Remedy(words=words, link=(*own, "change"), label="Change the queue")
            return Remedy(words=words, link=own, label=f"Queue {queue}")
        case Code.CONCURRENCY | Code.MAX_TOTAL:
            words = "Wait for a task to end, start another node, or raise the limit of the node."
            return Remedy(words=words, link=("nodes",), label="Nodes")
        case Code.AFTER_FAILED:
            return Remedy(words="Retry the task that it waits for, release this one, or cancel it.")
        case Code.AFTER | Code.NOT_DUE:
            return Remedy(words="Wait, or release it: then it runs now.")
        case Code.HELD:
            return Remedy(words="Release it if it is blocked, or cancel it and push a copy.")
        case Code.LOST_NODE:
            return Remedy(words="Start the node again if it should go on there.", link=("nodes",), label="Nodes")
    return None
