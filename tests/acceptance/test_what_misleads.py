"""What a person would act on is true: one meaning of *failed*, obstacles where people look for them, no file that is
not what its name says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from acceptance.conftest import Site, Terminal
from disbatch_host.client import Client
from disbatch_protocol.status import Status
from helpers.processes import wait_until
from helpers.stores import on_sqlite

Plugin = Callable[..., Path]


def test_failed_means_the_same_in_every_command(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: `status` said 31, `task list` 31, `status --watch` 48, and `task retry` ran 48 again."""
    plugin("bad", "exit 4")
    plugin("hangs", "exec sleep 60", timeout=0.2)
    plugin("good", "exit 0")
    ids = {}
    for name in ("bad", "hangs", "good"):
        on_store.fine("queue", "create", name, "--class", name)
        ids[name] = on_store.fine("task", "push", name).out.strip()
    on_store.fine("--until-idle", "--node-id", "n1")
    failed = {ids["bad"], ids["hangs"]}

    def listed(*filters: str) -> set[str]:
        return {one["_id"] for one in on_store.fine("task", "list", "--json", *filters).json}

    assert listed("--failed") == listed("--status", "failed") == failed
    assert listed("--status", "2+") == {ids["bad"]} and listed("--status", "terminated") == {ids["hangs"]}
    assert {one["_id"] for one in on_store.fine("task", "export", "--failed").json} == failed
    counts = {one["queue"]: one["failed"] for one in on_store.fine("status", "--json").json if "queue" in one}
    assert counts == {"bad": 1, "hangs": 1, "good": 0}
    shown = on_store.fine("status").out
    assert re.search(r"^hangs +0 +0 +0 +1$", shown, re.MULTILINE), shown
    waited = on_store("task", "wait", *ids.values())
    assert waited.code == 1
    assert waited.err.splitlines()[-1] == "3 ended in 0 s: 1 concluded, 2 failed (exit_4 1, timeout 1)"
    assert "found both" in on_store.refused(2, "task", "list", "--failed", "--status", "orphaned")
    assert "can be cancelled, found failed" in on_store.refused(2, "task", "cancel", "--queue", "bad", "--failed")
    assert on_store.fine("task", "retry", "--failed", "--queue", "hangs").out == "1 task will be run again\n"
    assert on_store.fine("task", "delete", "--failed", "--queue", "bad", "--yes").out == "1 task deleted\n"


def test_the_view_that_refreshes_itself_counts_as_the_others_do(site: Site) -> None:
    queue = site.queue(class_name="nowhere")
    ids = [site.push(queue) for _ in range(3)]
    site.fine("task", "cancel", ids[0])
    with Client(site.store, None, "me@here") as client:
        (seen,) = [one for one in client.overview().queues if one.name == queue]
    (said,) = [one for one in site.fine("status", "--json").json if one.get("queue") == queue]
    assert (
        (seen.failed, seen.orphaned, seen.waiting) == (said["failed"], said["orphaned"], said["waiting"]) == (0, 0, 2)
    )


@on_sqlite
def test_statuses_of_2_and_up_have_a_word_of_their_own(on_store: Terminal, plugin: Plugin) -> None:
    plugin("own", "exit 5", exit_codes={"5": {"outcome": "permanent", "status": 7}})
    on_store.fine("queue", "create", "q", "--class", "own")
    task_id = on_store.fine("task", "push", "q").out.strip()
    on_store.fine("--until-idle", "--node-id", "n1")
    for word in ("2+", "failed", "7"):
        assert [one["_id"] for one in on_store.fine("task", "list", "--status", word, "--json").json] == [task_id]
    assert on_store.fine("task", "list", "--status", "2", "--json").json == []


def test_what_is_broken_is_said_by_every_command_that_people_look_at(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: a deployment without the program; `node show` listed the other plugins, and `queue show` the counts."""
    home = plugin("weak", "exit 0")
    (home / "run.sh").unlink()
    on_store.fine("queue", "create", "q", "--class", "weak")
    on_store.fine("task", "push", "q")
    sentence = "plugin weak is broken on node n1: "
    with on_store.node():
        wait_until(lambda: "weak" in on_store("node", "show", "n1").out, 20)
        shown = on_store.fine("node", "show", "n1").out
        assert re.search(r"^broken +weak: .*expected a program at .*run.sh, found nothing", shown, re.MULTILINE), shown
        assert "claims     nothing: it has no plugin that it can use" in shown
        assert sentence in on_store.fine("queue", "show", "q").out
        (document,) = on_store.fine("queue", "show", "q", "--json").json
        assert [one["reason"] for one in document["waits"]] == ["broken"]
        assert sentence in on_store.fine("queue", "list").out
        status = on_store.fine("status").out
        assert "weak is broken on node n1: " in status and "`disbatch-host check` there says what to do" in status
        late = on_store("task", "wait", "--queue", "q", "--timeout", "0")
        assert sentence in late.err
    shown = on_store.fine("queue", "show", "q").out
    assert re.search(r"^waits +no node is alive", shown, re.MULTILINE), shown


def test_a_class_that_nobody_has_is_said_when_its_queue_is_made(on_store: Terminal, plugin: Plugin) -> None:
    plugin("Photo::Check", "exit 0")
    made = on_store.fine("queue", "create", "photos", "--class", "Photo::Chek")
    assert made.out == "photos\n"
    assert re.fullmatch(
        r"disbatch-host: queue photos was created, but neither a living node nor \S+ has a plugin Photo::Chek; did you "
        r"mean 'Photo::Check'\? `disbatch-host queue set photos class=Photo::Check` corrects it\n",
        made.err,
    ), made.err
    assert on_store.fine("queue", "set", "photos", "class=Photo::Check").err == ""
    other = on_store.fine("queue", "set", "photos", "class=Zzz").err
    assert "queue photos was changed, but neither " in other
    assert "has a plugin Zzz; its tasks wait until one has it" in other
    assert on_store.fine("queue", "create", "right", "--class", "Photo::Check").err == ""
    with on_store.node():
        wait_until(lambda: on_store("node", "show", "n1").code == 0, 20)
        elsewhere = on_store.directory / "elsewhere"
        elsewhere.mkdir()
        far = on_store.fine("queue", "create", "far", "--class", "Photo::Check", "--plugins", str(elsewhere))
        assert far.err == ""


def test_a_deleted_queue_says_what_it_leaves(on_store: Terminal) -> None:
    on_store.fine("queue", "create", "q", "--class", "A")
    on_store.fine("task", "push", "q", "-", stdin="{}\n{}\n")
    on_store.fine("task", "cancel", "--queue", "q", "--yes")
    assert on_store.fine("queue", "delete", "q").err == (
        "queue q deleted; its 2 tasks are kept, and shown by `disbatch-host task list --queue q`\n"
    )
    on_store.fine("queue", "create", "empty", "--class", "A")
    assert on_store.fine("queue", "delete", "empty").err == ""


@on_sqlite
def test_a_file_whose_name_promises_another_format_is_refused(on_store: Terminal) -> None:
    """Incident: `results.csv` held NDJSON, and a spreadsheet opened it as garbage."""
    on_store.fine("queue", "create", "q", "--class", "A")
    for name in ("x.xlsx", "x.ods"):
        assert f"{name}: expected" in on_store.refused(2, "task", "export", name)
        assert not (on_store.directory / name).exists()
    for name in ("results.ndjson", "old.ndjson.gz", "plain", "a.csv.d", ".csv.ndjson", "results.csv", "a.b.TSV.gz"):
        on_store.fine("task", "export", name)


@on_sqlite
def test_a_list_tells_how_long_a_task_has_run_and_what_one_that_concluded_complained_of(
    on_store: Terminal, plugin: Plugin
) -> None:
    plugin("half", "echo 'gzip: No such file' >&2; exit 0")
    plugin("long", "echo begun; exec sleep 600")
    long = f"/{'deep/' * 30}photo.bash: line 15: out/photo 3.txt.gz: ambiguous redirect"
    plugin("bad", f"echo '{long}' >&2; exit 1")
    for name in ("half", "long", "bad"):
        on_store.fine("queue", "create", name, "--class", name)
    ids = {name: on_store.fine("task", "push", name).out.strip() for name in ("half", "long", "bad")}
    with on_store.node():
        wait_until(lambda: on_store("task", "output", ids["long"]).out == "begun\n", 20)
        on_store("task", "wait", ids["half"], ids["bad"], "--timeout", "20")
        listed = on_store.fine("task", "list").out
        assert re.search(rf"^{ids['long']}.* \d+ s so far  -     -$", listed, re.MULTILINE), listed
        assert re.search(rf"^{ids['half']}.*  19 B on stderr$", listed, re.MULTILINE), listed
        assert listed.count(long) == 1, "nothing is cut where it is piped"
        assert re.search(r"started .* running for \d+ s", on_store.fine("task", "show", ids["long"]).out)
        on_store.fine("task", "cancel", ids["long"])


@on_sqlite
def test_show_says_why_a_task_waits_and_marks_what_it_cuts(on_store: Terminal, plugin: Plugin) -> None:
    plugin("fails", "printf 'x%.0s' $(seq 700); echo; printf 'Traceback\\nKeyError: 5\\n' >&2; exit 1")
    on_store.fine("queue", "create", "q", "--class", "fails")
    task_id = on_store.fine("task", "push", "q").out.strip()
    assert re.search(r"^waits +no node is alive$", on_store.fine("task", "show", task_id).out, re.MULTILINE)
    on_store.fine("--until-idle", "--node-id", "n1")
    shown = on_store.fine("task", "show", task_id).out
    assert f"{'x' * 500}… (200 more characters)" in shown
    assert re.search(r"^error +exit_1: KeyError: 5$", shown, re.MULTILINE) and shown.count("Traceback") == 1
    assert "at most" not in shown


def test_what_cancelled_a_task_before_it_started_is_kept_when_it_is_retried(site: Site) -> None:
    queue = site.queue()
    task_id = site.push(queue, "--delay", "1h")
    site.fine("task", "cancel", task_id, "--reason", "wrong letter")
    assert site.fine("task", "retry", task_id).out == f"{task_id} will be run again\n"
    site.wait_for(task_id, Status.CONCLUDED)  # at once, whatever the delay was
    assert re.search(r"^cancelled .*, by .*: wrong letter$", site.fine("task", "show", task_id).out, re.MULTILINE)


def test_a_request_to_a_node_says_what_came_of_it(site: Site) -> None:
    assert site.fine("node", "drain", "n1", "--wait").out == "node n1 is drained: it runs nothing any more\n"
    assert re.search(r"^claims +nothing: it is drained", site.fine("node", "show", "n1").out, re.MULTILINE)
    assert site.fine("node", "resume", "n1").out == "node n1 claims tasks again\n"
    (document,) = site.fine("node", "drain", "n1", "--json").json
    assert document["_id"] == "n1"
    site.fine("node", "resume", "n1")


def test_bad_events_are_marked_where_they_are_shown(terminal: Terminal, plugin: Plugin) -> None:
    lines = ['{"type":"progres","value":0.5}', '{"type":"progress","value":0.5}', "no event"]
    plugin("talks", "cat >/dev/null\n" + "\n".join(f"echo '{line}' >&3" for line in lines))
    said = terminal.fine("exec", "talks", "--events").err
    shown = [line for line in said.splitlines() if not line.startswith("disbatch-host")]
    assert shown[0] == f"event: {lines[0]}" and 'ignored: expected "type" to be one of' in shown[1]
    assert shown[2] == f"event: {lines[1]}" and shown[3] == "event: no event"
    assert "ignored: expected a JSON object" in shown[4] and len(shown) == 5


def test_check_says_the_tasks_own_error_and_shows_both_ends_of_long_output(terminal: Terminal, plugin: Plugin) -> None:
    """Incident: of a panic in Go only the end of the stack was shown, and of an `error` event only the exit code."""
    say = json.dumps({"type": "error", "code": "nobody", "message": "no such user"})
    program = f"echo '{say}' >&3; echo 'panic: nil map' >&2; seq 2000 >&2; echo 'exit status 2' >&2; exit 2"
    plugin("panics", program, examples=[{"name": "one", "parameters": {}}])
    result = terminal("check", "--run")
    assert result.code == 1 and "its error: nobody: no such user" in result.out
    assert "panic: nil map" in result.out and "exit status 2" in result.out and "…" in result.out


def test_a_parameter_that_is_probably_misspelt_is_named(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: `-p page=2` for `pages` ran with the default, and nobody was told."""
    types = {"pages": {"type": "integer", "default": 1}, "user_name": {"type": "string"}}
    plugin("Pages", "cat", parameters={"type": "object", "properties": types})
    on_store.fine("queue", "create", "q", "--class", "Pages")
    note = 'the plugin names no parameter "page", did you mean "pages"?'
    tried = on_store.fine("exec", "Pages", "-p", "page=2")
    assert tried.err == f"disbatch-host: {note}\n" and json.loads(tried.out)["parameters"] == {"page": 2, "pages": 1}
    assert on_store.fine("task", "push", "q", "-p", "page=2").err == f"{note}\n"
    lines = on_store.fine("task", "push", "q", "-", stdin='{"page": 1}\n{"page": 2}\n{"username": "x"}\n')
    other = 'line 3: the plugin names no parameter "username", did you mean "user_name"?'
    assert lines.err.splitlines()[1:] == [f"line 1: {note}", other] and len(lines.out.split()) == 3
    assert lines.err.startswith("batch ")  # before everything else
    later = on_store.fine("task", "push", "q", "-", stdin='{"pages": 1}\n{"pages": 1, "page": 2}\n')
    assert later.err.count("\n") == 1  # the batch; it is given, so nothing is missing
    (on_store.directory / "a.csv").write_text("page,size\n2,3\n")
    assert note in on_store.fine("task", "import", "q", "a.csv").err
    for fine in ('{"size": 3}', '{"pages": 2, "page": 1}', '{"pages": 2}'):  # other data, and nothing that is missing
        assert on_store.fine("task", "push", "q", fine).err == ""
    assert on_store.fine("task", "push", "q", "-p", "page=2", "--no-check").err == ""
    plugin("Names", "cat", parameters={"properties": {"name": {}, "pages": {}}, "required": ["name"]})
    on_store.fine("queue", "create", "names", "--class", "Names")
    lines = on_store.fine("task", "push", "names", "-", stdin='{"name": "a"}\n{"name": "b", "page": 2}\n')
    assert lines.err.splitlines()[1:] == [f"line 2: {note}"]


def test_a_parameter_with_a_pattern_of_its_own_or_a_closed_schema_gives_no_such_note(
    terminal: Terminal, plugin: Plugin
) -> None:
    open_to = {"properties": {"pages": {}}, "patternProperties": {"^page": {}}}
    plugin("Open", "cat", parameters=open_to)
    plugin("Closed", "cat", parameters={"properties": {"pages": {}}, "additionalProperties": False})
    assert terminal.fine("exec", "Open", "-p", "page=2").err == ""
    refused = terminal("exec", "Closed", "-p", "page=2")
    assert refused.code == 1 and "pages" in refused.err and "names no parameter" not in refused.err


def test_a_duration_that_somebody_types_has_a_unit(on_store: Terminal) -> None:
    """Incident: `queue set q keep=30` was meant as 30 days and taken for 30 seconds; the tasks were deleted."""
    on_store.fine("queue", "create", "q", "--class", "Greet", "--keep", "30d")
    on_store.fine("task", "push", "q", "--delay", "1h")
    (task_id,) = (one["_id"] for one in on_store.fine("task", "list", "--json").json)
    such_as = 'expected a duration with its unit, such as "30s", "30m", "30h" or "30d"'
    for name, command in (
        ("keep", ("queue", "set", "q", "keep=30")),
        ("--keep", ("queue", "create", "p", "--class", "Greet", "--keep", "30")),
        ("--expires", ("task", "push", "q", "--expires", "30")),
        ("expires", ("task", "set", task_id, "expires=30")),
        ("--since", ("task", "list", "--since", "30")),
        ("--before", ("task", "export", "--before", "30")),
        ("--before", ("task", "cancel", "--queue", "q", "--yes", "--before", "30")),
        ("--older", ("task", "delete", "--queue", "q", "--status", "finished", "--yes", "--older", "30")),
    ):
        line = on_store.refused(2, *command)
        assert f"{name}: {such_as}" in line and "found '30'" in line, line
    assert on_store.fine("queue", "show", "q", "--json").json[0]["keep"] == "30d"
    assert [one["_id"] for one in on_store.fine("task", "list", "--json").json] == [task_id]
    # What scripts write without one, and what the contract calls seconds, stays so, and is said.
    (on_store.directory / "rows.ndjson").write_text("{}\n")
    for command in (("task", "push", "q"), ("task", "import", "q", "rows.ndjson")):
        said = on_store.fine(*command, "--delay", "300").err
        assert said.count("--delay 300 is taken for 5m; write the unit, as in 300s\n") == 1, said
        assert "is taken for" not in on_store.fine(*command, "--delay", "300s").err
    assert "from 0 to ten years" in on_store.refused(2, "task", "push", "q", "--delay", "9999999999")
    assert "1 task has not ended within 0.2 s: " in on_store("task", "wait", task_id, "--timeout", "0.2").err
    log = on_store.fine("--until-idle", "--node-id", "n1", "--stop-grace", "5", "--heartbeat", "500ms").err
    assert "--stop-grace 5: 5 s" in log and "--heartbeat 500ms" not in log


def test_a_task_of_a_node_that_was_killed_is_not_said_to_run(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: a node was killed, and its task ran on in `task list`, `task show` and `task why`; `task wait` and
    `task cancel --wait` said nothing for 80 seconds."""
    plugin("slow", "exec sleep 600")
    on_store.fine("queue", "create", "q", "--class", "slow")
    task_id = on_store.fine("task", "push", "q").out.strip()
    with on_store.node("--heartbeat", "200ms", "--dead-after", "1s") as node:
        wait_until(lambda: "running on node n1 for" in on_store("task", "why", task_id).out, 20)
        assert "n1 was last heard from" not in on_store.fine("task", "show", task_id).out
        assert "last heard" not in on_store("task", "wait", task_id, "--timeout", "0").err
        node.kill()
        node.wait()
    dead = r"n1,? (which )?was last heard from [0-9]+ s ago and is taken for dead"
    wait_until(lambda: re.search(dead, on_store("task", "why", task_id).out), 20)
    on_store.environment["COLUMNS"] = "300"
    said = on_store.fine("task", "why", task_id).out
    assert re.fullmatch(
        rf"It was running on node {dead}; no other node is alive; the next node that is started settles it: it "
        r"becomes orphaned, since its plugin does not say that running it twice does no harm\.\n",
        said,
    ), said
    assert on_store.fine("task", "why", task_id, "--json").json[0]["reason"] == "lost_node"
    shown = on_store.fine("task", "show", task_id).out
    assert re.search(rf"^node +{dead}; no other node is alive", shown, re.MULTILINE), shown
    assert "running for" not in shown
    assert re.search(rf"^{task_id} +q +running +n1 .* node {dead}$", on_store.fine("task", "list").out, re.MULTILINE)
    for waiting in (("task", "wait", task_id), ("task", "wait", "--queue", "q")):
        late = on_store(*waiting, "--timeout", "0")
        assert re.search(rf"^nothing moves; task {task_id}: it was running on node {dead}", late.err, re.MULTILINE)
    cancelled = on_store.fine("task", "cancel", task_id)
    assert re.search(rf"^node {dead}; no other node is alive", cancelled.err, re.MULTILINE), cancelled.err
    assert cancelled.err.endswith("settles its tasks: they are cancelled\n")
    on_store.fine("--until-idle", "--node-id", "n1", "--force")  # which ends what is left of the program
    assert on_store.fine("task", "show", task_id, "--json").json[0]["status"] == Status.CANCELLED


def test_a_task_that_was_refused_was_not_started(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: `task show` said when it was started, and that it was not started."""
    plugin("count", "exit 0", parameters={"properties": {"n": {"type": "integer"}}})
    on_store.fine("queue", "create", "count", "--class", "count")
    refused = on_store.fine("task", "push", "count", "--no-check", "-p", "n:=true").out.strip()
    fine = on_store.fine("task", "push", "count", "-p", "n=1").out.strip()
    on_store.fine("--until-idle", "--node-id", "n1")
    shown = on_store.fine("task", "show", refused).out
    assert not re.search(r"^(started|ran) ", shown, re.MULTILINE), shown
    assert re.search(r"^ended .*, not started: parameters$", shown, re.MULTILINE), shown
    assert re.search(r"^attempt +1 on node n1, machine \S+, not started$", shown, re.MULTILINE), shown
    assert re.search(r"^started .*attempt 1 on node n1$", on_store.fine("task", "show", fine).out, re.MULTILINE)
    rows = on_store.fine("task", "list", "--queue", "count").out
    assert re.search(rf"^{refused} +count +failed +n1 +\S+ \S+ ago +- ", rows, re.MULTILINE), rows


def test_a_queue_that_exists_already_says_for_which_class(on_store: Terminal) -> None:
    """The guides use the names of queues again, for other plugins."""
    on_store.fine("queue", "create", "q", "--class", "Greet")
    line = on_store.refused(2, "queue", "create", "q", "--class", "Other")
    assert "queue 'q' exists already, for class Greet, not Other; choose another id, or change that one: " in line
    on_store.fine(*re.findall(r"`disbatch-host (.*)`", line)[0].split())
    assert on_store.fine("queue", "show", "q", "--json").json[0]["class"] == "Other"
    again = on_store.refused(2, "queue", "create", "q", "--class", "Other", "--maxthreads", "5")
    assert (
        "queue 'q' exists already, for class Other as well; `disbatch-host queue set q KEY=VALUE` changes its settings"
        in again
    )


def test_the_words_of_a_program_are_said_beside_those_of_the_host(on_store: Terminal, plugin: Plugin) -> None:
    """Incident: of a program that had no file, and no memory either, only `limits.memory` was mentioned."""
    program = "echo working >&2; echo 'no room: cannot allocate memory' >&2; exit 3"
    plugin("small", program, limits={"memory": "1G"})
    plugin("late", "echo 'waiting for the lock' >&2; exec sleep 60", timeout="300ms")
    ids = {}
    for name in ("small", "late"):
        on_store.fine("queue", "create", name, "--class", name)
        ids[name] = on_store.fine("task", "push", name).out.strip()
    on_store.fine("--until-idle", "--node-id", "n1")
    on_store.environment["COLUMNS"] = "300"
    host = "limits.memory is 1 GiB of address space, which may be why"
    both = f"no room: cannot allocate memory; {host}"
    timeout = "it ran longer than its timeout of 0.3 s"
    late = f"{timeout} (stderr: waiting for the lock)"
    listed = on_store.fine("task", "list").out
    assert f"{both}\n" in listed and f"{late}\n" in listed
    assert f"failed ({both})." in on_store.fine("task", "why", ids["small"]).out
    assert f"terminated ({late})." in on_store.fine("task", "why", ids["late"]).out
    assert f"task {ids['small']} failed: {both}\n" in on_store("task", "wait", ids["small"]).err
    shown = on_store.fine("task", "show", ids["small"]).out
    assert re.search(rf"^error +exit_3: no room: cannot allocate memory\n +disbatch-host: {host}$", shown, re.MULTILINE)
    shown = on_store.fine("task", "show", ids["late"]).out
    assert re.search(rf"^error +timeout: disbatch-host: {timeout}$", shown, re.MULTILINE) and "waiting for" in shown


@on_sqlite
def test_a_task_names_the_tasks_that_its_run_created(on_store: Terminal, plugin: Plugin) -> None:
    """They named it, but there was no way from it to them."""
    tasks = [{"queue": "next", "parameters": {"n": number}} for number in range(7)]
    plugin("first", f"echo '{json.dumps({'type': 'tasks', 'tasks': tasks})}' >&3")
    on_store.fine("queue", "create", "q", "--class", "first")
    task_id = on_store.fine("task", "push", "q").out.strip()
    on_store.fine("--until-idle", "--node-id", "n1")
    created = [one["_id"] for one in on_store.fine("task", "list", "--queue", "next", "--json").json]
    assert len(created) == 7
    shown = on_store.fine("task", "show", task_id).out
    named = re.search(r"^follow-ups +((?:\w+, queue next, created\n +){5})and 2 more$", shown, re.MULTILINE)
    assert named is not None, shown
    assert set(re.findall(r"\w+(?=, queue)", named[1])) < set(created)
    assert re.search(rf"^parent +{task_id},", on_store.fine("task", "show", created[0]).out, re.MULTILINE)
    assert "follow-ups" not in on_store.fine("task", "show", created[0]).out
