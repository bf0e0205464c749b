"""Every interval of a node: how often it looks, how long it waits, how patient it is.

Responsible for: the numbers, each with its reason. Must not know: what is done at these times. Intervals that people
can set (the heartbeat, `dead_after`, the grace of a stop) are settings.

A node is given its pace, so that a test can have one that does not wait for seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from disbatch_host.plugin.checking import CHECK_SECONDS
from disbatch_host.process.host import DRAIN_SECONDS
from disbatch_host.run.context import NewsPace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The intervals of one node."""

    refresh_seconds: float = 1.0  # between two reads of all queues: den-1.0 calls it the refresh interval
    # Between two such reads while the store announces every change, has announced none, and nothing runs here: they
    # only make sure then. What is due in the store is promoted each second all the same.
    unchanged_seconds: float = 5.0
    # Before a queue is asked again whose `maxtotal` other nodes have used up: nothing announces when one of their tasks
    # ends, and each question is a trip to the store.
    limited_seconds: float = 0.05
    gather_seconds: float = 0.001  # for a free place to wait for others, to be filled in the same claim
    # Without more tasks at once than it can run, once the machine has no descriptor, process, memory or room left.
    shortage_seconds: float = 5.0
    # Looks for the tasks of a claim whose answer was lost, one per refresh. A slow server may carry out the claim late;
    # a minute is longer than any answer is waited for. Looks, not time: none is made while the store is away.
    lost_claim_looks: int = 60

    due_seconds: float = 1.0  # between two looks for tasks that expire, are cancelled or waited for: people watch this
    told_at_once_seconds: float = (
        0.005  # between two such looks after ends that others wait for: many are told together
    )
    due_after_change_seconds: float = 0.1  # between two such looks because somebody has written: that may be very often
    idle_wait_seconds: float = (
        3600.0  # --until-idle waits for tasks that are due so soon; cron comes back for the others
    )
    # Spent in one go on the tasks that are due, lost, promoted or deleted: heartbeats and claims wait meanwhile.
    piece_seconds: float = 0.2
    interval_check_seconds: float = 5.0  # until an interval that became shorter counts, at most
    sweep_seconds: float = 5.0  # between two looks for dead nodes; small compared with `dead_after`
    check_seconds: float = CHECK_SECONDS  # of CPU time for the check of a task's parameters
    plugin_scan_seconds: float = 2.0  # plugin contract: a change takes effect within a few seconds
    # Between two looks through what nodes have published about plugins: what nobody names any more costs a little room.
    publishing_seconds: float = 600.0
    census_seconds: float = 5.0  # between two counts of the whole store for the metrics, at least
    silent_client_seconds: float = 5.0  # until a connection for the metrics that says nothing is closed
    batch_seconds: float = 5.0  # between two looks whether a batch is done, if nothing has changed
    batch_after_change_seconds: float = 0.5  # likewise, since a task of one has ended, or others have written
    failing_queues_seconds: float = 2.0  # between two looks at the failures of queues that have a limit of them
    failing_queues_after_failure_seconds: float = 0.2  # likewise, since a task of one has failed here
    retention_seconds: float = 60.0  # between two looks for ended tasks that their queue no longer keeps

    # A culprit (`compartment`) is not tried again for so long: one that still fails costs little, one that somebody has
    # mended does not wait for long.
    rest_seconds: float = 30.0
    task_trouble_seconds: float = 3600.0  # a failed task is shown this long: nothing tries it again

    # An old heartbeat is watched this long, and for this many of its own intervals, before its node counts as dead:
    # enough time to renew it if only a clock jumped, or nobody could reach the store.
    confirm_seconds: float = 4.0
    confirm_heartbeats: int = 3
    # For the runs of a dead node's supervisor to end in their own way, before they are killed with it.
    stop_supervisor_seconds: float = 5.0
    left_over_seconds: float = 5.0  # between two looks whether what could not be ended is gone
    kill_wait_seconds: float = 5.0  # for killed processes to be gone; only uninterruptible sleep takes longer
    kill_poll_seconds: float = 0.01  # between two checks whether they are gone

    # Of a node that leaves its runs: for tasks that have not begun to go back, for ends that have come to be recorded,
    # and for the store to be told. What is left the next node does.
    leave_seconds: float = 5.0
    leave_look_seconds: float = 0.02  # between two looks whether that is done
    removal_seconds: float = 10.0  # of a stop, for work directories to be removed; the next node here removes the rest
    lost_store_seconds: float = 10.0  # for a store's file that was moved away to come back, once nothing runs any more

    news: NewsPace = NewsPace()  # of each run's output and events, while it runs
    drain_seconds: float = DRAIN_SECONDS  # how long a background child may hold a program's output

    turn_seconds: float = 0.001  # of the store's thread, at least, under load: one commit costs as much as five changes
    slow_turn_seconds: float = 0.02  # a turn of the store that takes longer is not for the event loop
    slow_rest_seconds: float = 1.0  # after one, until the event loop takes the turns again
    watch_seconds: float = 0.001  # between two looks whether others have written, at least; the store says how many
    watcher_seconds: float = 5.0  # for a waiting watcher to check whether it should end, if closing does not wake it
    first_retry_seconds: float = 0.1  # before the second attempt to reach a store that is away; doubled each time
    last_retry_seconds: float = 5.0  # the longest of these pauses: a store that is back is noticed within seconds
