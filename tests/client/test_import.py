"""Imports without a terminal: tasks from rows, what does not fit, and an import that goes on after a kill."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pymongo
import pytest

from disbatch_host.client import Client, Selection
from disbatch_host.client.importing.collection import DocumentRows
from disbatch_host.client.importing.files import kept, opened, rows_of
from disbatch_host.client.importing.importer import Import, Imported, Progress, Resumed, Rules, Step
from disbatch_host.client.importing.passes import BATCH_ROWS
from disbatch_host.client.importing.report import Report
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Task
from disbatch_host.errors import OutputError, RowsRefusedError, StoreRefusedError, UsageError
from disbatch_host.plugin.catalog import Plugin, load_plugins
from disbatch_host.store.contract import Store
from disbatch_protocol.masks import MASK
from disbatch_protocol.status import Status
from helpers.nodes import write_plugin

SCHEMA = {
    "type": "object",
    "properties": {
        "user": {"type": "string"},
        "tries": {"type": "integer"},
        "pin": {"type": "string", "writeOnly": True},
    },
    "required": ["user"],
}


@pytest.fixture
def queue(store: Store) -> Queue:
    store.insert_queue({"_id": "mail", "class": "mail"})
    found = store.find_queue("mail")
    assert found is not None
    return found


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    write_plugin(tmp_path / "plugins", "mail", "exit 0", parameters=SCHEMA)
    return load_plugins([tmp_path / "plugins"]).plugins["mail"]


Performed = Callable[..., Imported]


@pytest.fixture
def perform(store: Store, queue: Queue, tmp_path: Path) -> Performed:
    """Import this text from a file of this name."""

    def perform(text: str, name: str = "rows.csv", *, begins_again: bool = False, **more: Any) -> Imported:
        path = tmp_path / name
        path.write_text(text)
        rules = more.pop("rules", Rules())
        with opened(path) as file:
            one = Import(store, queue, rows_of(file), rules, file=file, **more, by="me@here")
            return one.perform(begins_again=begins_again)

    return perform


def tasks(store: Store) -> list[Task]:
    return list(store.find_tasks(TaskFilter(queue="mail")))


def parameters(store: Store) -> list[Any]:
    return [one.parameters for one in tasks(store)]


def test_each_row_becomes_a_task_in_its_order_with_progress(store: Store, perform: Performed) -> None:
    told: list[Progress] = []
    result = perform("user,tries\nann,1\nben,2\n", on_progress=told.append)
    assert (result.rows, result.created, result.faults, result.is_whole, result.is_resumed) == (2, 2, 0, True, False)
    assert result.import_id == str(tasks(store)[0].id)
    assert parameters(store) == [{"user": "ann", "tries": "1"}, {"user": "ben", "tries": "2"}]
    assert told == [
        Progress(step=Step.CHECKING),
        Progress(step=Step.CHECKING, rows=2),
        Progress(step=Step.CREATING, total=2),
        Progress(step=Step.CREATING, rows=2, total=2),
    ]


def test_rules_map_columns_add_constants_fields_and_unique_keys(store: Store, perform: Performed) -> None:
    rules = Rules(
        maps=("who=to.user", "n:=tries"), constants={"body": "hello"}, key_column="who", fields={"priority": 5}
    )
    result = perform("who,n,other\nann,1,x\nann,2,x\n", rules=rules)
    assert (result.created, result.existing) == (1, 1)
    (task,) = tasks(store)
    assert task.parameters == {"to": {"user": "ann"}, "tries": 1, "body": "hello"}
    assert (task.document["unique_key"], task.document["priority"]) == ("ann", 5)


def test_where_a_row_does_not_fit_nothing_is_created_and_all_faults_are_told(
    store: Store, perform: Performed, plugin: Plugin
) -> None:
    faults: list[RowFault] = []
    text = "user,tries,pin\nann,1,1234\nben,many,1234\n,3,1234\n"
    with pytest.raises(RowsRefusedError, match="nothing is created: 1 of 3 rows does not fit"):
        perform(text, plugin=plugin, on_fault=faults.append)
    assert tasks(store) == []
    (fault,) = faults
    assert (fault.line, "tries" in fault.reason) == (3, True)
    assert fault.row == {"user": "ben", "tries": "many", "pin": MASK}


def test_rows_that_do_not_fit_are_skipped_where_the_rules_say_so(
    store: Store, perform: Performed, plugin: Plugin
) -> None:
    faults: list[RowFault] = []
    rules = Rules(stops=False)
    result = perform("user,tries\nann,1\nben,many\n", rules=rules, plugin=plugin, on_fault=faults.append)
    assert (result.rows, result.created, result.skipped, result.faults) == (2, 1, 1, 1)
    assert parameters(store) == [{"user": "ann", "tries": 1}]
    assert [one.line for one in faults] == [3]


def test_without_checking_anything_goes_in_and_secrets_are_still_known(
    store: Store, perform: Performed, plugin: Plugin
) -> None:
    perform('{"tries": "many", "pin": "1234"}\n', "rows.ndjson", rules=Rules(is_checking=False), plugin=plugin)
    (task,) = tasks(store)
    assert task.document["secrets"] == ["/pin"]


def test_a_look_creates_nothing_and_shows_the_first_tasks_without_secrets(
    store: Store, queue: Queue, plugin: Plugin
) -> None:
    text = b"".join(b'{"user": "u%d", "pin": "1234"}\n' % number for number in range(5)) + b'{"user": 1}\n'
    with kept(io.BytesIO(text), "stdin") as file:
        looked = Import(
            store, queue, rows_of(file), Rules(fields={"priority": 1}), plugin=plugin, file=file, by="me@here"
        ).look()
    assert (looked.rows, looked.fit, looked.faults) == (6, 5, 1)
    assert [one["parameters"] for one in looked.tasks] == [{"user": f"u{n}", "pin": MASK} for n in range(3)]
    assert looked.tasks[0]["priority"] == 1
    assert tasks(store) == []


class _Killed(Exception):
    """The process ends here."""


def test_an_import_that_was_killed_goes_on_where_it_was_with_the_same_ids(store: Store, perform: Performed) -> None:
    text = "n\n" + "".join(f"{number}\n" for number in range(BATCH_ROWS + 5))
    resumed: list[Resumed] = []

    def die(progress: Progress) -> None:
        if progress.step is Step.CREATING and progress.rows:
            raise _Killed

    with pytest.raises(_Killed):
        perform(text, on_progress=die)
    assert len(tasks(store)) == BATCH_ROWS
    result = perform(text, on_resumed=resumed.append)
    assert [one.rows for one in resumed] == [BATCH_ROWS]
    assert (result.is_resumed, result.created, result.rows) == (True, BATCH_ROWS + 5, BATCH_ROWS + 5)
    assert [one["n"] for one in parameters(store)] == [str(number) for number in range(BATCH_ROWS + 5)]
    assert str(tasks(store)[0].id) == result.import_id
    again = perform(text, on_resumed=resumed.append)  # it was finished: the same file means new tasks
    assert (again.is_resumed, len(resumed)) == (False, 1)
    assert again.import_id != result.import_id


class Overtaken:
    """A store in which another process finishes the same import just before this one writes down how far it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write_note(self, name: str, document: Any, **how: Any) -> bool:
        if document is not None and not how.get("is_new"):
            self.name = name
            self._store.write_note(name, None)
        return self._store.write_note(name, document, **how)


def test_an_import_that_another_process_has_finished_does_not_bring_its_record_back(
    store: Store, queue: Queue, tmp_path: Path
) -> None:
    """It wrote its record again, and went on to its end: rows were created again whose tasks had perhaps been deleted,
    and after a kill the next import of the same file resumed what was finished."""
    path = tmp_path / "rows.csv"
    path.write_text("n\n" + "".join(f"{number}\n" for number in range(2 * BATCH_ROWS)))
    overtaken: Any = Overtaken(store)
    with opened(path) as file:
        result = Import(overtaken, queue, rows_of(file), Rules(), file=file, by="me@here").perform()
    assert not result.is_whole and len(tasks(store)) == BATCH_ROWS
    assert overtaken.name and store.read_note(overtaken.name) is None


def test_other_rules_another_identity_and_a_new_beginning_are_other_imports(store: Store, perform: Performed) -> None:
    def die(progress: Progress) -> None:
        if progress.step is Step.CREATING:
            raise _Killed

    def begun(**more: Any) -> bool:
        with pytest.raises(_Killed):
            perform("n\n1\n", on_progress=die, on_resumed=lambda _: found.append(True), **more)
        return bool(found)

    found: list[bool] = []
    assert not begun(identity={"delay": "1h"})
    assert not begun(identity={"delay": "2h"})
    assert not begun(identity={"delay": "1h"}, begins_again=True)
    assert begun(identity={"delay": "1h"})


def test_a_file_that_changes_meanwhile_ends_the_import(store: Store, queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("n\n1\n")

    def write(progress: Progress) -> None:
        if progress.step is Step.CREATING:
            path.write_text("n\n1\n2\n")

    with opened(path) as file:
        one = Import(store, queue, rows_of(file), Rules(), file=file, on_progress=write, by="me@here")
        with pytest.raises(UsageError, match="changed while it was being imported"):
            one.perform()
    assert (one.result.created, one.result.is_whole) == (0, False)


@pytest.mark.parametrize(
    ("name", "text", "how", "message"),
    [
        ("rows.csv", "a,a\n1,2\n", {}, "more than one column 'a'"),
        ("rows.csv", "a,b\n1,2\n", {"maps": ("c=d",)}, "no column 'c' in the header"),
        ("rows.csv", "a\n1\n", {"key_column": "b"}, "no column 'b' in the header"),
        ("rows.ndjson", '{"a": 1}\n', {"maps": ("b=c",)}, "no row has 'b'"),
        ("rows", "a\n1\n", {}, "since the format of .*rows is unclear"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_created(
    store: Store, perform: Performed, name: str, text: str, how: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        perform(text, name, rules=Rules(**how))
    assert tasks(store) == []


@pytest.mark.mongodb
@pytest.mark.parametrize("store_url", ["mongodb"], indirect=True)
def test_documents_of_a_collection_become_tasks(store: Store, queue: Queue) -> None:
    for name in ("ann", "ben"):
        store.insert_queue({"_id": name, "class": "user"})
    rows = DocumentRows(store, "queues", {"class": "user"})
    rules = Rules(constants={"user": "document._id", "body": "hello"})
    result = Import(store, queue, rows, rules, by="me@here").perform()
    assert (result.created, result.is_resumed, result.import_id is None) == (2, False, False)
    assert sorted(one["user"] for one in parameters(store)) == ["ann", "ben"]
    assert {one["body"] for one in parameters(store)} == {"hello"}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_store_without_collections_says_so(store: Store, queue: Queue) -> None:
    with pytest.raises(StoreRefusedError):
        Import(
            store, queue, DocumentRows(store, "users", {}), Rules(constants={"a": "document.b"}), by="me@here"
        ).perform()


def test_a_report_holds_one_object_for_each_row_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "faults.ndjson"
    report = Report(str(path), "rows.csv")
    report.add(RowFault(line=3, reason="expected a number", row={"n": "x"}))
    report.close()
    assert orjson.loads(path.read_bytes()) == {
        "file": "rows.csv", "line": 3, "reason": "expected a number", "row": {"n": "x"},
    }  # fmt: skip
    with pytest.raises(UsageError, match="cannot be written"):
        Report(str(tmp_path / "no" / "report"), "rows.csv")


def test_a_report_on_a_full_disk_ends_with_a_sentence() -> None:
    report = Report("/dev/full", "rows.csv")
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left"):
        for _ in range(10_000):
            report.add(RowFault(line=1, reason="x" * 100, row=None))
    short = Report("/dev/full", "rows.csv")
    short.add(RowFault(line=1, reason="x", row=None))  # which is still in memory
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left"):
        short.close()


def test_a_client_imports_a_file_a_stream_and_goes_on_after_a_kill(store: Store, queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user\nann\nben\n")
    client = Client(store, None, "me@here")

    def die(progress: Progress) -> None:
        if progress.step is Step.CREATING:
            raise _Killed

    with pytest.raises(_Killed):
        client.import_file("mail", path, delay="1h", listeners={"on_progress": die})
    result = client.import_file("mail", str(path), delay="1h")  # the moment it leads to is another one by now
    assert (result.is_resumed, result.created) == (True, 2)
    assert {one.document["status"] for one in tasks(store)} == {Status.BLOCKED}
    stream = io.BytesIO(b'{"who": "cleo"}\n')
    faults: list[RowFault] = []
    result = client.import_file(
        "mail", stream, Rules(maps=("who=user",), stops=False), priority=3, listeners={"on_fault": faults.append}
    )
    assert (result.created, faults) == (1, [])
    assert (tasks(store)[-1].parameters, tasks(store)[-1].document["priority"]) == ({"user": "cleo"}, 3)


def add_index_of_users(store: Store) -> None:
    """As another program, or a person, adds it: only one task for each user."""
    where = urlsplit(store.description)
    if where.scheme == "sqlite":
        with sqlite3.connect(where.path) as by_hand:
            by_hand.execute("CREATE UNIQUE INDEX one_each ON tasks (json_extract(parameters, '$.user'))")
        by_hand.close()
    else:
        with pymongo.MongoClient[Any](store.description) as by_hand:
            by_hand[where.path.strip("/")]["tasks"].create_index("parameters.user", name="one_each", unique=True)


@pytest.mark.own_database
def test_a_row_that_the_store_refuses_is_skipped_where_the_rules_say_so(store: Store, perform: Performed) -> None:
    add_index_of_users(store)
    text = "user\n" + "".join(f"{name}\n" for name in "aabcbd")
    with pytest.raises(StoreRefusedError, match="one_each"):
        perform(text)
    faults: list[RowFault] = []
    for again in (False, True):  # the one that stopped goes on; a second one finds nothing that it could create
        done = perform(text, rules=Rules(stops=False), on_fault=faults.append, begins_again=again)
        assert (done.rows, done.created, done.skipped) == ((6, 4, 2) if not again else (6, 0, 6))
        assert sorted(task.parameters["user"] for task in store.find_tasks(TaskFilter())) == ["a", "b", "c", "d"]
    assert [(one.line, one.row) for one in faults[:2]] == [(3, {"user": "a"}), (6, {"user": "b"})]
    assert all(one.reason.startswith("the store refuses its task: ") and "one_each" in one.reason for one in faults)


def test_one_unique_key_for_all_rows_is_refused(store: Store, queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key_column"):
        Client(store, None, "me@here").import_file("mail", tmp_path / "rows.csv", unique_key="one")


def test_a_client_knows_the_schema_of_the_plugin(store: Store, queue: Queue, plugin: Plugin, tmp_path: Path) -> None:
    client = Client(store, load_plugins([plugin.directory.parent]), "me@here")
    (tmp_path / "rows.ndjson").write_text('{"user": "ann", "tries": "many"}\n')
    with pytest.raises(RowsRefusedError):
        client.import_file("mail", tmp_path / "rows.ndjson")
    assert client.import_file("mail", tmp_path / "rows.ndjson", Rules(is_checking=False)).created == 1


def test_what_a_table_has_apostrophes_before_comes_back_as_it_was(store: Store, queue: Queue, tmp_path: Path) -> None:
    """Table, edit, import: the apostrophe that keeps a spreadsheet from evaluating a text is none of the text."""
    texts = [
        "=1+1", "+49 30 1", "-x", "@home", "\ttab", "\rline", "'=quoted", "''=twice", "'tis", "'", "a'=b", "-5",
        "plain",
    ]  # fmt: skip
    client = Client(store, None, by="me@here")
    for text in texts:
        client.push("mail", {"user": text})
    for name in ("all.csv", "all.tsv"):
        table = tmp_path / name
        client.export(table, Selection(queue="mail"), columns=["user"])
        content = table.read_bytes().decode("utf-8-sig")
        assert "'=1+1" in content and "''=quoted" in content and '"=' not in content
        table.write_text(content.replace("plain", "edited"))
        store.insert_queue({"_id": name, "class": "mail"})
        client.import_file(name, table)
        made = [task.parameters["user"] for task in store.find_tasks(TaskFilter(queue=name))]
        assert made == [*texts[:-1], "edited"]


@pytest.mark.mongodb
@pytest.mark.parametrize("store_url", ["mongodb"], indirect=True)
def test_a_client_imports_a_collection(store: Store, queue: Queue) -> None:
    client = Client(store, None, "me@here")
    rules = Rules(maps=("class=kind",))
    result = client.import_collection("mail", "queues", rules, condition={"_id": "mail"}, priority=1)
    assert (result.created, parameters(store)) == (1, [{"kind": "mail"}])
    assert client.import_collection("mail", "queues", rules, condition={"_id": "none"}).created == 0
