"""The same six ends in five languages, from the contract alone, on both stores."""

from __future__ import annotations

from collections.abc import Callable

from disbatch_protocol.status import Status
from helpers.errors import plain
from helpers.languages import CASE_PROGRAMS, write_cases
from helpers.nodes import Cluster
from helpers.processes import assert_group_is_gone
from helpers.stores import one_store_each


@one_store_each("store_url", "language", CASE_PROGRAMS)
def test_every_end_is_recorded_as_the_contract_says(
    cluster: Cluster, language: str, require: Callable[[str], None]
) -> None:
    queue = cluster.queue(write_cases(cluster.plugins, language, require, name="cases").name)
    deaf = cluster.queue(write_cases(cluster.plugins, language, require, name="deaf").name)
    names = ("ok", "three", "signal", "long", "background")
    ids = dict(zip(names, cluster.push(queue, *({"case": name} for name in names)), strict=True))
    (ids["deaf"],) = cluster.push(deaf, {"data": "x" * 2**20})
    cluster.run(pace={"drain_seconds": 0.3})  # how long it is by itself, `test_child` shows
    tasks = {name: cluster.task(task_id) for name, task_id in ids.items()}

    assert {name: task.status for name, task in tasks.items()} == {
        "ok": 1, "three": 2, "signal": Status.TERMINATED, "long": 1, "background": 1, "deaf": 1,
    }  # fmt: skip
    runs = {name: task.run for name, task in tasks.items()}
    assert {name: run.get("exit_code") for name, run in runs.items()} == {
        "ok": 0, "three": 3, "signal": None, "long": 0, "background": 0, "deaf": 0,
    }  # fmt: skip
    assert runs["signal"]["signal"] == ("KILL" if language == "go" else "SEGV")
    assert {name: run["reason"] for name, run in runs.items() if name != "signal"} == {
        name: "exited" for name in runs if name != "signal"
    }
    for name, task in tasks.items():
        run = task.run
        assert (run["attempt"], run["node"], run["plugin"]["class"]) == (1, "n1", "deaf" if name == "deaf" else "cases")
        assert run["started"] <= run["ended"] and run["cpu_seconds"] >= 0 and run["peak_memory_bytes"] > 0
        if name not in ("long", "deaf"):
            assert (task.document["stdout"], task.document["stderr"]) == ("out\n", "err\n")
        assert_group_is_gone(run["pid"])
    assert cluster.output(ids["long"]) == b"out\n" + b"x" * 3 * 2**20
    assert tasks["long"].document["stdout"] == "out\n" + "x" * (2**20 - 4)
    assert tasks["deaf"].document["stdout"] == "deaf\n"
    assert runs["background"]["output_held_open"] is True and runs["background"]["seconds"] < 20
    assert "output_held_open" not in runs["ok"]
    assert plain(tasks["three"].document["error"]) == {"code": "exit_3", "message": "err"}
