"""Batches at the terminal: made by an import or a push, shown, waited for, retried, closed and deleted."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

from acceptance.conftest import Site
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
