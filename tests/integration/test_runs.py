"""Runs of real programs through a real node: what the task document says afterwards. On both stores."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

from disbatch_host.documents.records import NOBODY
from disbatch_protocol.status import Status
from helpers.errors import plain
from helpers.nodes import QUICK_TO_SEE, UNKNOWN_FORMAT, Cluster, Living, public_plugins
from helpers.processes import wait_until
from helpers.stores import living_on_sqlite, on_sqlite, one_store_each


def test_success_is_recorded_with_everything_that_is_known_of_the_run(living: Living) -> None:
    living.plugin("Hello", "echo out; echo err >&2", version="1.1a")
    task = living.run_one(living.queue("Hello"))
    document, run = task.document, task.run
    assert (task.status, task.node) == (Status.CONCLUDED, "n1")
    assert (document["stdout"], document["stderr"]) == ("out\n", "err\n")
    assert (run["reason"], run["exit_code"], run["outcome"]) == ("exited", 0, "success")
    assert (run["attempt"], run["node"], run["plugin"]["class"], run["plugin"]["version"]) == (1, "n1", "Hello", "1.1a")
    assert isinstance(run["started"], datetime) and document["ctime"] <= run["started"] <= run["ended"]
    assert document["mtime"] == run["ended"]
    assert run["cpu_seconds"] >= 0 and run["peak_memory_bytes"] > 0 and run["pid"] > 0
    assert "error" not in document and "signal" not in run


def test_a_failure_is_told_by_exit_code_and_the_last_lines_of_stderr(living: Living) -> None:
    living.plugin("Bad", "for i in $(seq 100); do echo line $i >&2; done; exit 3")
    task = living.run_one(living.queue("Bad"))
    assert (task.status, task.run["exit_code"], task.run["reason"]) == (Status.FAILED, 3, "exited")
    error = task.document["error"]
    assert error["code"] == "exit_3"
    assert error["message"] == "line 100"
    assert error["detail"].splitlines() == [f"line {number}" for number in range(81, 101)]
    assert error["group"]["text"] == "exit_3: line <n>"


@living_on_sqlite
def test_a_silent_failure_still_says_what_happened(living: Living) -> None:
    living.plugin("Bad2", "exit 9")
    task = living.run_one(living.queue("Bad2"))
    assert task.document["error"]["message"] == "disbatch-host: it ended with exit code 9 and nothing on stderr"


def test_death_by_a_signal_that_nobody_here_sent_is_terminated(living: Living) -> None:
    living.plugin("Killed", "kill -KILL $$")
    task = living.run_one(living.queue("Killed"))
    assert (task.status, task.run["signal"], task.run["reason"]) == (Status.TERMINATED, "KILL", "signaled")
    assert "exit_code" not in task.run
    assert task.document["error"]["code"] == "signal_KILL"


def test_three_mebibytes_without_a_newline_are_read_back_whole(living: Living) -> None:
    living.plugin("Big", "head -c 3145728 /dev/zero | tr '\\0' x; printf end >&2")
    (task_id,) = living.push(living.queue("Big"), {})
    living.finish(task_id)
    task = living.task(task_id)
    assert task.status == Status.CONCLUDED
    assert task.document["stdout"] == "x" * 2**20
    assert task.run["output"]["stdout"] == {"bytes": 3 * 2**20, "in_file": True}
    assert living.output(task_id) == b"x" * 3 * 2**20
    assert living.output(task_id, "stderr") == b"end"


def test_max_output_keeps_head_and_tail_and_says_what_is_missing(living: Living) -> None:
    program = "head -c 2000000 /dev/zero | tr '\\0' a; head -c 2000000 /dev/zero | tr '\\0' b"
    living.plugin("Chatty", program, max_output="1000")
    task = living.run_one(living.queue("Chatty"))
    gap = "\ndisbatch-host: 3999000 bytes of output are left out here (max_output is 1000 B)\n"
    assert task.document["stdout"] == "a" * 500 + gap + "b" * 500
    assert task.run["output"]["stdout"]["dropped_bytes"] == 3_999_000


def test_a_mebibyte_of_parameters_is_harmless_for_a_program_that_ignores_stdin(living: Living) -> None:
    living.plugin("Deaf", "exec <&-; echo fine")
    task = living.run_one(living.queue("Deaf"), {"data": "x" * 2**20})
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "fine\n")
    assert task.run["stdin_unread"] is True


def test_a_mebibyte_of_parameters_arrives_whole(living: Living) -> None:
    living.plugin("Echo", "cat")
    (task_id,) = living.push(living.queue("Echo"), {"data": "é" * 2**19, "last": True})
    living.finish(task_id)
    assert json.loads(living.output(task_id))["parameters"] == {"data": "é" * 2**19, "last": True}


@living_on_sqlite
def test_a_background_child_that_keeps_stdout_does_not_keep_the_task(living: Living) -> None:
    living.plugin("Daemon", "sleep 600 & echo started")
    task = living.run_one(living.queue("Daemon"))
    assert (task.status, task.document["stdout"]) == (Status.CONCLUDED, "started\n")
    assert task.run["output_held_open"] is True
    assert 2 <= task.run["seconds"] < 10


def test_the_document_on_stdin_is_one_line_of_what_is_stored(living: Living) -> None:
    living.plugin("Echo2", "cat", parameters={"properties": {"n": {"default": 5}}})
    queue = living.queue("Echo2")
    (task_id,) = living.push(queue, {"name": "Matt"}, note={"free": [1, None]}, log=["secret"])
    living.finish(task_id)
    text = living.task(task_id).document["stdout"]
    assert text.endswith("\n") and text.count("\n") == 1
    seen = json.loads(text)
    assert (seen["_id"], seen["queue"], seen["node"], seen["status"]) == (str(task_id), "Echo2", "n1", 0)
    assert seen["parameters"] == {"name": "Matt", "n": 5}
    assert seen["note"] == {"free": [1, None]}
    assert seen["ctime"].endswith("Z") and len(seen["ctime"]) == len("2026-01-01T00:00:00.000Z")
    assert not {"stdout", "stderr", "log", "claim"} & set(seen)
    # The defaults are filled in for the plugin; what is stored stays what was pushed.
    assert living.task(task_id).parameters == {"name": "Matt"}


@on_sqlite
def test_the_environment_is_clean_and_has_what_the_contract_promises(cluster: Cluster) -> None:
    home = cluster.plugin("Env", "env -0", env={"LEVEL": "3"}, env_pass=["PASSED_*"], timeout="1h")
    secret = {"SECRET": "s3cret", "PASSED_ON": "yes", "DISBATCH_STORE": "sqlite:///secret.db", "LC_TIME": "C"}
    task = cluster.run_one(cluster.queue("Env"), {"password": "hidden"}, env=secret)
    seen = dict(one.split("=", 1) for one in task.document["stdout"].split("\0") if one)
    own = {name: value for name, value in seen.items() if name.startswith("DISBATCH_")}
    deadline = float(own.pop("DISBATCH_DEADLINE"))
    assert abs(deadline - task.run["started"].timestamp() - 3600) < 5
    assert re.fullmatch(r"[0-9a-f]{32}-\d+", own.pop("DISBATCH_RUN"))
    assert own == {
        "DISBATCH_PROTOCOL": "1",
        "DISBATCH_MODE": "oneshot",
        "DISBATCH_TASK_ID": str(task.id),
        "DISBATCH_QUEUE": "Env",
        "DISBATCH_CLASS": "Env",
        "DISBATCH_NODE": "n1",
        "DISBATCH_ATTEMPT": "1",
        "DISBATCH_EVENT_FD": "3",
        "DISBATCH_PLUGIN_DIR": str(home.resolve()),
    }
    allowed = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "PYTHONUNBUFFERED", "LC_TIME"}
    shells_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    others = {name for name in seen if not name.startswith(("DISBATCH_", "LC_"))} - shells_own
    assert others - allowed == {"LEVEL", "PASSED_ON"}
    assert {"PATH", "HOME", "LANG", "TMPDIR", "USER", "PYTHONUNBUFFERED"} <= others
    assert "s3cret" not in task.document["stdout"] and "hidden" not in task.document["stdout"]
    assert seen["PWD"] == str(home.resolve())


@living_on_sqlite
def test_a_work_directory_is_fresh_private_and_removed_after_success(living: Living) -> None:
    living.plugin("Work", 'pwd; stat -c %a .; ls -A; echo "$DISBATCH_WORK_DIR"; touch left', cwd="work")
    task = living.run_one(living.queue("Work"))
    directory, mode, named = task.document["stdout"].split()
    assert (directory, mode) == (named, "700")
    wait_until(lambda: not Path(directory).exists(), 10, "it was not removed")  # once the end was recorded


def test_a_work_directory_stays_after_a_failure_and_the_run_says_where(living: Living) -> None:
    living.plugin("Work2", "echo evidence >left; exit 1", cwd="work")
    task = living.run_one(living.queue("Work2"))
    assert (Path(task.run["work_directory"]) / "left").read_text() == "evidence\n"


def test_timeout_is_terminated_and_says_so(living: Living) -> None:
    living.plugin("Slow", "echo begun; sleep 600", timeout=0.5)
    task = living.run_one(living.queue("Slow"))
    assert (task.status, task.run["reason"], task.run["signal"]) == (Status.TERMINATED, "timeout", "TERM")
    assert task.document["stdout"] == "begun\n"
    assert plain(task.document["error"]) == {
        "code": "timeout",
        "message": "disbatch-host: it ran longer than its timeout of 0.5 s",
    }


@living_on_sqlite
def test_silence_is_terminated_and_a_deaf_program_is_killed_after_its_grace(living: Living) -> None:
    living.plugin(
        "Deaf2", "trap '' INT; echo begun; while :; do sleep 600; done",
        idle_timeout=0.3, kill_grace=0.3, stop_signal="INT",
    )  # fmt: skip
    task = living.run_one(living.queue("Deaf2"))
    assert (task.status, task.run["reason"], task.run["signal"]) == (Status.TERMINATED, "idle_timeout", "KILL")
    assert task.run["killed"] is True
    assert "killed 0.3 s after it was asked to stop" in task.document["error"]["message"]


@living_on_sqlite
def test_exit_codes_mean_what_the_manifest_says(living: Living) -> None:
    living.plugin(
        "Codes",
        'read -r line; exit $(expr "$line" : \'.*"parameters":{"code":\\([0-9]*\\)\')',
        exit_codes={"1": "success", "3": {"outcome": "failure", "status": 33}, "10-19": "permanent", "80": "snooze"},
        retry={"max": 1, "delay": 0},
    )
    queue = living.queue("Codes")
    ids = living.push(queue, {"code": 1}, {"code": 3}, {"code": 12}, {"code": 80}, {"code": 4})
    living.wait_for_status(ids[3], Status.BLOCKED)
    for task_id, wanted in ((ids[0], 1), (ids[1], 33), (ids[2], 2), (ids[4], 2)):
        living.wait_for_status(task_id, wanted)
    attempts = [(living.task(one).run["attempt"], len(living.task(one).attempts)) for one in ids]
    assert attempts == [(1, 0), (2, 1), (1, 0), (1, 1), (2, 1)]
    snoozed = living.task(ids[3])
    assert (snoozed.run["outcome"], snoozed.run["attempt_used"], snoozed.next_attempt) == ("snooze", False, 1)


def test_a_failed_attempt_is_tried_again_after_its_delay_and_leaves_its_story(living: Living) -> None:
    program = 'echo "attempt $DISBATCH_ATTEMPT"; test "$DISBATCH_ATTEMPT" = 3 || { echo no >&2; exit 1; }'
    living.plugin("Again", program, retry={"max": 5, "delay": 0.4, "backoff": 1, "jitter": 0})
    task = living.run_one(living.queue("Again"))
    assert (task.status, task.run["attempt"]) == (Status.CONCLUDED, 3)
    assert task.document["stdout"] == "attempt 3\n"
    assert "error" not in task.document and "not_before" not in task.document
    first, second = task.attempts
    assert [(one["attempt"], one["exit_code"], one["status"]) for one in (first, second)] == [
        (1, 1, Status.BLOCKED),
        (2, 1, Status.BLOCKED),
    ]
    assert first["error"]["message"] == "no"
    assert (second["started"] - first["ended"]).total_seconds() >= 0.4


def test_a_task_that_waits_for_its_next_attempt_is_blocked_and_nobodys(living: Living) -> None:
    living.plugin("Later", "exit 75", retry={"max": 1, "delay": "1h", "jitter": 0})
    (task_id,) = living.push(living.queue("Later"), {})
    task = living.wait_for_status(task_id, Status.BLOCKED)
    assert task.document["node"] == NOBODY and "claim" not in task.document
    assert 3590 < (task.document["not_before"] - task.run["ended"]).total_seconds() < 3610


def test_parameters_that_do_not_fit_are_a_failure_and_nothing_is_started(living: Living) -> None:
    trace = living.directory / "started"
    living.plugin(
        "Strict", f"touch {trace}", retry={"max": 3, "delay": 0},
        parameters={"type": "object", "required": ["user"], "properties": {"user": {"type": "string"}}},
    )  # fmt: skip
    task = living.run_one(living.queue("Strict"), {"user": 7})
    assert (task.status, task.run["reason"], task.run["attempt"]) == (Status.FAILED, "parameters", 1)
    assert "/user: expected a string, found the number 7" in task.document["error"]["message"]
    assert not trace.exists()


def test_what_cannot_be_started_goes_back_and_its_class_is_set_aside_until_its_files_change(cluster: Cluster) -> None:
    home = cluster.plugin("Broken", "#!/bin/sh\necho never")
    (home / "run.sh").write_bytes(UNKNOWN_FORMAT)
    cluster.plugin("Fine", "echo fine")
    (broken_id,) = cluster.push(cluster.queue("Broken"), {})
    (fine_id,) = cluster.push(cluster.queue("Fine"), {})
    cluster.start("--heartbeat", "0.1", pace={**QUICK_TO_SEE, "plugin_scan_seconds": 0.2})
    cluster.wait_for_status(fine_id, Status.CONCLUDED)

    def set_aside() -> list[dict[str, object]]:
        node = cluster.store.get_node("n1")
        return node.document["set_aside"] if node is not None else []

    wait_until(set_aside, 20, "the class was not set aside")
    assert [(one["class"], 'no "#!" line' in str(one["reason"])) for one in set_aside()] == [("Broken", True)]
    task = cluster.task(broken_id)
    assert (task.status, task.document["node"]) == (Status.CREATED, NOBODY)
    assert task.run["reason"] == "start_failed" and task.run["attempt"] == 1
    assert len(task.attempts) == 5
    cluster.plugin("Broken", "echo mended")
    assert cluster.wait_for_status(broken_id, Status.CONCLUDED).document["stdout"] == "mended\n"
    wait_until(lambda: not set_aside(), 20, "the class stayed set aside")


@living_on_sqlite
def test_limits_hold(living: Living) -> None:
    living.plugin("Limits", "ulimit -n; ulimit -v; while :; do :; done", limits={"files": 99, "memory": "1G", "cpu": 1})
    task = living.run_one(living.queue("Limits"))
    assert task.document["stdout"].split() == ["99", str(2**20)]
    assert (task.status, task.run["signal"] in ("XCPU", "KILL")) == (Status.TERMINATED, True)


@on_sqlite
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
def test_run_as_changes_user_groups_and_home_and_its_pipes_can_be_opened(cluster: Cluster) -> None:
    program = 'id -u; id -G; echo "$HOME $USER"; echo opened >/dev/stdout; echo event >/dev/fd/3; stat -c %U "$PWD"'
    with public_plugins(cluster):
        cluster.plugin("As", program, run_as="nobody", cwd="work")
        task = cluster.run_one(cluster.queue("As"))
    uid, groups, home, opened, owner = task.document["stdout"].splitlines()
    assert (uid, groups, opened, owner) == ("65534", "65534", "opened", "nobody")
    assert home.endswith(" nobody")
    assert task.document["stderr"] == ""


def test_output_grows_in_the_document_while_the_task_runs(living: Living) -> None:
    gate = living.directory / "gate-of-grow"
    living.plugin("Grow", f"echo first; while ! test -e {gate}; do sleep 0.1; done; echo last")
    (task_id,) = living.push(living.queue("Grow"), {})
    wait_until(lambda: living.task(task_id).document["stdout"] == "first\n", 20, "the first line was not seen")
    task = living.task(task_id)
    assert (task.status, task.run["pid_started"] > 0) == (Status.RUNNING, True)
    gate.touch()
    assert living.wait_for_status(task_id, Status.CONCLUDED).document["stdout"] == "first\nlast\n"


def test_a_long_output_grows_in_its_file_while_the_task_runs(living: Living) -> None:
    gate = living.directory / "gate-of-grow2"
    program = f"head -c 2000000 /dev/zero | tr '\\0' x; while ! test -e {gate}; do sleep 0.1; done; echo last"
    living.plugin("Grow2", program)
    (task_id,) = living.push(living.queue("Grow2"), {})
    token = living.wait_for_status(task_id, Status.RUNNING).token
    assert token is not None
    wait_until(
        lambda: sum(map(len, living.store.read_output(task_id, token, "stdout"))) >= 1_500_000,
        what="no pieces were seen",
    )
    gate.touch()
    living.wait_for_status(task_id, Status.CONCLUDED)
    assert living.output(task_id) == b"x" * 2_000_000 + b"last\n"


@living_on_sqlite
def test_utf8_survives_block_borders_and_rubbish_becomes_replacement_characters(living: Living) -> None:
    program = f"#!{sys.executable}\nimport os, time\n" + (
        "for part in (b'caf\\xc3', b'\\xa9 ', b'\\xf0\\x9d', b'\\x84\\x9e ', b'\\xff\\xfe nul:\\0'):\n"
        "    os.write(1, part); time.sleep(0.02)\n"
    )
    living.plugin("Utf8", program)
    task = living.run_one(living.queue("Utf8"))
    assert task.document["stdout"] == "café 𝄞 \ufffd\ufffd nul:\0"
    assert task.run["output"]["stdout"]["replaced"] == 2


@one_store_each("living", "language", ["bash", "perl", "python", "go", "node"])
def test_each_language_runs_from_nothing_but_the_contract(living: Living, language: str, require: object) -> None:
    from helpers.languages import write_greeter

    directory = write_greeter(living.plugins, language, require)
    living.look_at_plugins()
    queue = living.queue(directory.name)
    ids = living.push(queue, {"name": "Matt"}, {"name": "Zoë", "exit": 3})
    living.finish(*ids)
    good, bad = (living.task(one) for one in ids)
    assert (good.status, good.document["stdout"], good.document["stderr"]) == (1, "Hello, Matt\n", "greeted\n")
    assert (bad.status, bad.document["stdout"], bad.run["exit_code"]) == (2, "Hello, Zoë\n", 3)
