"""Batches at the terminal: made by an import or a push, shown, waited for, retried, closed and deleted."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acceptance.conftest import PROGRAM, Site, Terminal
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from helpers.processes import wait_until

FAIL, FINE = '{"do": "fail"}\n', "{}\n"


def name() -> str:
    return f"b-{uuid.uuid4().hex[:10]}"


def of(site: Site, batch: str) -> dict[str, Any]:
    (document,) = site.fine("batch", "show", batch, "--json").json
    return dict(document)


def until_done(site: Site, batch: str) -> dict[str, Any]:
    wait_until(lambda: of(site, batch)["state"] == "done", 20, f"batch {batch} is never done")
    return of(site, batch)


def test_an_import_is_a_batch_that_is_named_counted_waited_for_and_deleted(site: Site) -> None:
    queue, tell = site.queue(), site.queue()
    file = site.directory / "rows.csv"
    file.write_text("do,file\nfail,\n" + ",x\n" * 9)
    said = site.fine("task", "import", queue, "rows.csv", "--on-done", tell, "--on-done-p", "to=ann").out
    batch = said.strip().rpartition("batch ")[2]
    assert said == f"10 tasks created in queue {queue}, batch {batch}\n"
    waited = site("batch", "wait", batch)
    assert waited.code == 1 and "9 concluded, 1 failed (exit_3 1)\n" in waited.err
    done = until_done(site, batch)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert done["source"] == {"kind": "import", "name": "rows.csv", "sha256": digest, "queue": queue}
    assert done["total"] == 10 and done["summary"]["failed"] == 1 and done["progress"]["percent"] == 100.0
    assert "it took " in waited.err and " from the first start to the last end, " in waited.err
    assert done["summary"]["attempts"] == done["progress"]["attempts"] == 10
    assert len(done["summary"]["slowest"]) == 5
    shown = site.fine("batch", "show", batch).out
    document = site.store.get_batch(batch)
    assert document is not None
    followed = str(document["on_done"]["task"])
    site.wait_for(followed, 1)
    assert f"a task in queue {tell}: task {followed}, concluded\n" in site.fine("batch", "show", batch).out
    assert "needs 6 characters or more" in site.refused(4, "batch", "wait", batch[:5])
    assert "10 for 10 ended tasks\n" in shown and " since its creation" in shown
    (document,) = site("batch", "wait", batch, "--json").json
    assert document["run_seconds"] == done["progress"]["run_seconds"] < document["since_creation_seconds"]
    assert "@" in done["by"] and done["on_done"]["parameters"] == {"to": "ann"}
    (told,) = site.fine("task", "list", "--queue", tell, "--json").json
    assert told["parameters"]["batch"] == batch and told["parameters"]["to"] == "ann"
    # By a filter, by the beginning of its id, and as the newest of the same person.
    assert len(site.fine("task", "list", "--batch", batch[:16], "--failed", "--json").json) == 1
    assert of(site, batch[:20])["_id"] == batch and of(site, "@last")["_id"] == batch
    assert "done" in site.fine("batch", "list").out and "import rows.csv" in site.fine("batch", "list").out
    assert site.fine("batch", "delete", batch, "--yes").out == "10 tasks deleted\n"
    assert batch in site.refused(4, "batch", "show", batch)
    assert site.fine("task", "list", "--queue", queue, "--json").json == []


def test_what_is_pushed_from_stdin_is_a_batch_and_its_id_the_first_that_is_said(site: Site) -> None:
    queue = site.queue()
    pushed = site.fine("task", "push", queue, "-", stdin=FINE * 3)
    word, batch = pushed.err.split()
    assert word == "batch" and {site.task(one).document["batch"] for one in pushed.out.split()} == {batch}
    assert site.fine("batch", "wait", batch).err.endswith("3 concluded\n")
    assert until_done(site, batch)["total"] == 3
    refused = site("task", "push", queue, "-", stdin=f"{FINE}oops\n")
    first, _, second = refused.err.partition("\n")
    assert refused.code == 2 and f"push the rest with --batch {first.split()[1]} --close" in second
    assert of(site, first.split()[1])["state"] == "open"
    assert site.fine("task", "push", queue, "-", stdin="").err == ""  # nothing is no batch


def test_a_named_batch_is_open_until_it_is_closed_and_takes_nothing_after_that(site: Site) -> None:
    queue, batch = site.queue(), name()
    site.push(queue, "--batch", batch)
    site.fine("task", "push", queue, "-", "--batch", batch, stdin=FINE * 2)
    shown = site.fine("batch", "show", batch).out
    assert "open: tasks may be added" in shown and "close" in shown
    site("task", "wait", "--queue", queue, "--timeout", "20s")
    waited = site("batch", "wait", batch, "--timeout", "1s")
    assert waited.code == 1 and "is open; `disbatch-host batch close" in waited.err
    assert site.fine("batch", "close", batch).out == f"batch {batch} is closed\n"
    assert site.fine("batch", "close", batch).out.startswith(f"batch {batch} was ")
    assert "takes no more tasks" in site.refused(2, "task", "push", queue, "--batch", batch)
    (site.directory / "late.csv").write_text("do\nx\n")
    assert "takes no more tasks" in site.refused(2, "task", "import", queue, "late.csv", "--batch", batch)
    site.fine("batch", "wait", batch)
    assert until_done(site, batch)["summary"]["total"] == 3


def test_failed_tasks_of_a_batch_are_run_again_and_it_tells_once_more_only_if_it_is_told_to(
    site: Site, tmp_path: Path
) -> None:
    queue, tell, batch = site.queue(), site.queue(), name()
    line = f'{{"do": "exists", "file": "{tmp_path}/marker"}}\n'
    options = ("--batch", batch, "--close", "--on-done", tell)
    site.fine("task", "push", queue, "-", *options, stdin=line * 2 + FINE)
    assert site("batch", "wait", batch).code == 1
    until_done(site, batch)
    assert site.fine("batch", "retry", batch, "--yes").out == "2 tasks will be run again\n"
    assert site("batch", "wait", batch).code == 1
    until_done(site, batch)
    assert len(site.fine("task", "list", "--queue", tell, "--json").json) == 1
    (tmp_path / "marker").touch()
    assert site.fine("batch", "retry", batch, "--yes", "--again").out == "2 tasks will be run again\n"
    assert site.fine("batch", "wait", batch).err.endswith("3 concluded\n")
    until_done(site, batch)
    told = site.fine("task", "list", "--queue", tell, "--json").json
    assert sorted(one["parameters"]["failed"] for one in told) == [0, 2]


def test_one_cause_of_failure_of_a_batch_is_run_again_and_the_follow_up_is_not_forgotten(
    site: Site, tmp_path: Path
) -> None:
    queue, tell, batch = site.queue(), site.queue(), name()
    lines = f'{{"do": "exists", "file": "{tmp_path}/a"}}\n' * 2 + '{"do": "fail"}\n'
    site.fine("task", "push", queue, "-", "--batch", batch, "--close", "--on-done", tell, stdin=lines)
    until_done(site, batch)
    two, one = site.fine("batch", "failures", batch, "--json").json
    assert (two["count"], one["count"]) == (2, 1)
    (tmp_path / "a").touch()
    retried = site.fine("batch", "retry", batch, "--failure", two["key"], "--again")
    assert retried.out == "2 tasks will be run again\n" and retried.err == ""
    until_done(site, batch)
    assert of(site, batch)["summary"]["concluded"] == 2
    assert len(site.fine("task", "list", "--queue", tell, "--json").json) == 2
    retried = site.fine("batch", "retry", batch, "--error", "exit_3")
    assert retried.out == "1 task will be run again\n" and "only if it is retried with --again" in retried.err
    until_done(site, batch)
    retried = site.fine("batch", "retry", batch, "--grep", "nothing says this")
    assert retried.out == "0 tasks will be run again\n"
    assert f"--grep nothing says this; `disbatch-host batch failures {batch}` shows" in retried.err
    assert "8 hexadecimal digits" in site.refused(2, "batch", "retry", batch, "--failure", "zz")
    assert "task failures" in site.fine("task", "retry", "--failure", "00000000").err
    refused = site.refused(2, "task", "retry", "--error", "exit_3", "--batch", batch)
    assert "expected --failed or --status beside --batch, found neither" in refused


def test_rows_that_an_import_has_skipped_are_in_the_story_of_its_batch(site: Site) -> None:
    queue, batch = site.queue(), name()
    (site.directory / "some.ndjson").write_text(f"oops\n{FINE}[]\n")
    skip = ("task", "import", queue, "some.ndjson", "--on-error", "skip")
    report = site.directory / "bad.ndjson"
    said = site.fine(*skip, "--report", "bad.ndjson").out
    assert ", 2 rows skipped" in said
    own = of(site, "@last")
    assert (own["source"]["skipped"], own["source"]["report"]) == (2, str(report)) and own["state"] != "open"
    assert f"2 rows of the source did not fit; {report} has them" in site.fine("batch", "show", "@last").out
    site.fine(*skip, "--batch", batch)
    (site.directory / "more.ndjson").write_text(f"oops\n{FINE}")
    site.fine("task", "import", queue, "more.ndjson", "--on-error", "skip", "--batch", batch)
    source = of(site, batch)["source"]
    assert source["skipped"] == 3 and source["name"] == "some.ndjson" and "report" not in source
    (site.directory / "one.ndjson").write_text(f"oops\n{FINE}")
    site.fine("task", "import", queue, "one.ndjson", "--on-error", "skip")
    assert "1 row of the source did not fit\n" in site.fine("batch", "show", "@last").out
    (site.directory / "fine.ndjson").write_text(FINE)
    site.fine("task", "import", queue, "fine.ndjson")
    assert "skipped" not in of(site, "@last")["source"]


def test_a_list_has_the_numbers_of_now_while_a_batch_goes_on(site: Site, tmp_path: Path) -> None:
    queue, batch = site.queue(), name()
    line = f'{{"do": "exists", "file": "{tmp_path}/a"}}\n'
    site.fine("task", "push", queue, "-", "--batch", batch, "--close", stdin=line * 2 + FINE)
    until_done(site, batch)

    def listed() -> tuple[list[str], dict[str, Any]]:
        (row,) = [one for one in site.fine("batch", "list").out.splitlines() if one.startswith(batch)]
        (document,) = [one for one in site.fine("batch", "list", "--json").json if one["_id"] == batch]
        return row.split()[1:4], document

    row, document = listed()
    assert row == ["done", "3", "2"] and "now" not in document
    site.fine("queue", "set", queue, "maxthreads=0")
    site.fine("batch", "retry", batch)
    row, document = listed()
    assert row == ["closed", "3", "0"] and document["summary"]["failed"] == 2
    assert document["now"] == {"total": 3, "ended": 1, "failed": 0, "is_counted": True}
    site.fine("batch", "cancel", batch, "--yes")


def test_a_batch_is_cancelled_and_others_are_not(site: Site) -> None:
    queue, batch = site.queue("--maxthreads", "0"), name()
    other = site.push(queue)
    site.fine("task", "push", queue, "-", "--batch", batch, stdin=FINE * 3)
    assert "without --yes" in site.refused(2, "batch", "cancel", batch)
    assert site.fine("batch", "cancel", batch, "--yes", "--reason", "wrong").out == "3 tasks cancelled\n"
    assert site.task(other).status == -2
    assert "is open" in site.refused(2, "batch", "delete", batch, "--yes")
    assert "their batch is not done" in site.fine(
        "task", "delete", "--batch", batch, "--status", "cancelled", "--yes"
    ).err  # fmt: skip
    site.fine("task", "cancel", other)


def test_wrong_words_are_said_in_one_line(site: Site) -> None:
    queue, batch = site.queue("--maxthreads", "0"), name()
    assert "did you mean" in site.refused(2, "batch", "shwo")
    assert "no batch 'nope'" in site.refused(4, "batch", "wait", "nope")
    assert "needs --batch" in site.refused(2, "task", "push", queue, "--on-done", queue)
    assert "--close" in site.refused(2, "task", "push", queue, "-", "--close", stdin=FINE)
    assert "no queue 'nowhere'" in site.refused(4, "task", "push", queue, "--batch", batch, "--on-done", "nowhere")
    assert "begin with @" in site.refused(2, "task", "push", queue, "--batch", "@last")
    assert "control characters" in site.refused(2, "task", "push", queue, "--batch", "a\tb")
    assert "--on-done-p needs" in site.refused(2, "task", "push", queue, "--batch", batch, "--on-done-p", "a=1")
    for text in (f"{batch}-1", f"{batch}-2"):
        site.push(queue, "--batch", text)
    both = site.refused(2, "batch", "show", batch)
    assert f"{batch}-1" in both and f"{batch}-2" in both
    assert "another on_done" not in site.fine("task", "push", queue, "--batch", f"{batch}-1", "--on-done", queue).err
    other = site.queue()
    assert "another on_done" in site.refused(2, "task", "push", queue, "--batch", f"{batch}-1", "--on-done", other)
    site.fine("task", "cancel", "--queue", queue, "--yes")


def test_what_the_tasks_of_a_batch_said_comes_line_by_line_with_their_ids(site: Site) -> None:
    queue, batch = site.queue(), name()
    ids = site.fine("task", "push", queue, "-", "--batch", batch, "--close", stdin=FAIL + FINE + FAIL).out.split()
    assert site("batch", "wait", batch).code == 1
    lines = site.fine("task", "output", "--batch", batch, "--failed", "--stderr").out.splitlines()
    short = [line.split(": ", 1)[0] for line in lines]
    assert [site.fine("task", "show", one, "--json").json[0]["_id"] for one in short] == [ids[0], ids[2]]
    assert lines == [f"{one}: it broke" for one in short]
    both = site.fine(
        "task", "output", "--queue", queue, "--stream", "both", "--tail", "1", "--follow", "--batch", batch
    )
    assert sorted(both.out.splitlines()) == sorted(f"{one} stderr: it broke" for one in short) and both.err == ""
    documents = site.fine("task", "output", "--batch", batch, "--stderr", "--json").json
    assert documents == [{"_id": one, "stream": "stderr", "text": "it broke\n"} for one in (ids[0], ids[2])]
    assert site.fine("task", "output", ids[0], "--stream", "both").out == "stderr: it broke\n"
    assert site.fine("task", "output", ids[0], "--stderr", "--tail", "0").out == ""
    assert "found both" in site.refused(2, "task", "output", ids[0], "--queue", queue)
    assert "or another filter" in site.refused(2, "task", "output")
    assert "--stream stdout, found both" in site.refused(2, "task", "output", ids[0], "--stderr", "--stream", "stdout")
    wrong = site.refused(2, "task", "output", "--queue", queue, "--status", "running", "--follow")
    assert "--status: " in wrong and "how they end" in wrong


def test_a_batch_is_followed_until_it_is_done_and_a_queue_until_somebody_stops_it(site: Site, tmp_path: Path) -> None:
    queue, batch, marker = site.queue(), name(), tmp_path / "marker"
    task_id = site.push(queue, "-p", "do=until", "-p", f"file={marker}", "--batch", batch)
    with contextlib.ExitStack() as stack:
        of_batch, of_queue = (
            stack.enter_context(following(site, *options)) for options in (("--batch", batch), ("--queue", queue))
        )
        assert line_of(of_batch) == line_of(of_queue)
        site.push(queue, "-p", "do=until", "-p", f"file={marker}", "--batch", batch)
        second = line_of(of_batch)
        assert second == line_of(of_queue) and not task_id.startswith(second.split(":")[0])
        marker.touch()
        site.fine("batch", "close", batch)
        assert of_batch.wait(30) == 0
        assert of_queue.poll() is None
        of_queue.send_signal(signal.SIGINT)
        assert of_queue.wait(30) == 130


@contextlib.contextmanager
def following(site: Site, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A command that follows outputs, until the end of the block."""
    words = [str(PROGRAM), "task", "output", *options, "--follow"]
    with subprocess.Popen(
        words, cwd=site.directory, env=site.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.endswith(": begun\n")
    return line


def test_outputs_go_into_a_pipe_unchanged_and_one_that_closes_is_no_error(on_store: Terminal, store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "A"})
    text = "\x1b[31mred\r\n" + "x" * 100_000 + "\n"
    store.insert_tasks([{**new_task("q", {}, now=store.now()), "status": 1, "stdout": text} for _ in range(40)])
    out = on_store.fine("task", "output", "--queue", "q", "--tail", "2").out
    assert out.count(": \x1b[31mred\n") == 40 and len(out) > 40 * 100_000  # universal newlines took the return
    piped = subprocess.run(
        ["bash", "-c", f"{PROGRAM} task output --queue q | head -c 1 | wc -c; echo ${{PIPESTATUS[0]}}"],
        env=on_store.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (piped.stdout.split(), piped.stderr) == (["1", "0"], "")


def test_causes_and_table_of_a_batch_are_commands_of_their_own(site: Site) -> None:
    queue, batch = site.queue(), name()
    site.fine("task", "push", queue, "-", "--batch", batch, "--close", stdin=FAIL * 2 + FINE)
    site("batch", "wait", batch)
    as_task = site.fine("task", "failures", "--batch", batch, "--json").json
    (cause,) = site.fine("batch", "failures", batch, "--json").json
    assert [cause] == as_task and cause["count"] == 2
    assert cause["retry"] == f"disbatch-host batch retry {batch} --failure {cause['key']}"
    assert site.fine("batch", "failures", "@last").out.endswith("2 failed\n")
    assert site.fine("task", "failures", "--batch", "@last").out.endswith("2 failed\n")
    assert site.fine("batch", "export", batch, "a.tsv").out == "3 tasks written to a.tsv\n"
    site.fine("task", "export", "--batch", batch, "b.tsv")
    assert (site.directory / "a.tsv").read_bytes() == (site.directory / "b.tsv").read_bytes()
    assert "--columns" in site.refused(2, "batch", "export", batch, "--columns", "")
    assert "no batch 'nope'" in site.refused(4, "batch", "failures", "nope")
    assert "no batch 'nope'" in site.refused(4, "batch", "export", "nope", "x.csv")
