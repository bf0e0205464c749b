"""Import as a page, without a script: its four steps, what each says, and the list of imports."""

from __future__ import annotations

import csv
import gzip
import html
import io
import re
from pathlib import Path

import pytest

from disbatch_host.client import Client, Selection
from helpers.browsing import Page, Visitor
from helpers.importing import check, checked, choose, people, text_of, through
from helpers.nodes import write_plugin
from helpers.web import Web

SECRET = "planted-5ecret"


@pytest.fixture(scope="module")
def plugins(plugins: Path) -> Path:
    strict = {"type": "object", "required": ["to"], "properties": {"to": {"type": "string", "minLength": 1}}}
    write_plugin(plugins, "Strict", "true", parameters=strict)
    return plugins


@pytest.fixture(scope="module")
def visitor(server: Web) -> Visitor:
    found = Visitor(server)
    assert found.sign_in("operate").status == 200
    return found


def queue(client: Client, name: str, class_name: str = "Greet") -> str:
    client.queues.create(name, class_name)
    return name


def test_a_file_becomes_a_batch_in_four_steps(visitor: Visitor, client: Client) -> None:
    queue(client, "whole")
    assert '/queues/whole/import"' in visitor.get("/queues/whole").text
    first = visitor.send_file("/queues/whole/import", people(50), "people.csv")
    assert first.status == 303 and first.headers["location"].endswith("&step=file")
    look = visitor.follow(first)
    for words in ("people.csv", "UTF-8", "a comma", "<dd>50</dd>", "Line 2", "Line 6", 'title="u4"'):
        assert words in look.text, words
    assert "Line 7" not in look.text
    columns = visitor.get(first.headers["location"].replace("step=file", "step=map"))
    form = choose(columns)
    assert dict(form.fields)["to.0"] == "user" and dict(form.fields)["to.1"] == "tries" and "required" in columns.text
    found = checked(visitor, visitor.post(form.action, [*form.fields, ("priority", "3")]))
    assert re.search(r"<b>50</b> fit\b", found.text) and "Line 4" in found.text and "Line 5" not in found.text
    assert client.count(Selection(queue="whole")) == 0, "nothing is created before somebody says so"
    done = through(visitor, found)
    assert ">50</a></dd>" in done.text and "Go on to its batch" in done.text
    (batch,) = [one for one in Page(done.text).links if one.startswith("/batches/")]
    assert visitor.get(batch).status == 200
    tasks = list(client.find(Selection(queue="whole")))
    assert [one.document["parameters"] for one in tasks] == [{"user": f"u{n}", "tries": n} for n in range(50)]
    assert {one.document["batch"] for one in tasks} == {batch.rpartition("/")[2]}
    assert {(one.document["priority"], one.document["created_by"]) for one in tasks} == {(3, "operate@web")}


WRONG = {
    "nothing": ("people.csv", b"", 422, "is empty"),
    "a workbook": ("people.xlsx", b"PK\x03\x04" + bytes(100), 422, "save it as CSV"),
    "UTF-16": ("people.csv", "user,tries\nann,1\n".encode("utf-16"), 422, "expected UTF-8, found UTF-16"),
    "a header in Latin-1": ("people.csv", "übung,x\na,b\n".encode("latin-1"), 422, "expected UTF-8"),
    "half of a packed file": ("people.csv.gz", gzip.compress(people(100).encode())[:-12], 422, "is it whole?"),
    "no file": ("", b"", 422, "choose a file first"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_read_is_said_where_it_was_sent(visitor: Visitor, client: Client, what: str) -> None:
    if client.store.find_queue("wrong") is None:
        queue(client, "wrong")
    name, data, status, words = WRONG[what]
    reply = visitor.send_file("/queues/wrong/import", data, name)
    assert reply.status == status and words in text_of(reply), text_of(reply)
    assert 'type="file"' in reply.text and "Not taken" in reply.text and 'role="alert"' in reply.text


SEEN = {
    "a column twice": ("user,user\na,b\n", "&#39;user&#39; more than once", False),
    "no row": ("user,tries\n", "no row below it", False),
    "another character between the fields": ("user^tries\na^1\n", "There is only one column", True),
    "rows of other widths": (
        "user,tries\na,1\nb\nc,1,2\n",
        "2 of these rows cannot be read, the first at line 3",
        True,
    ),
    "a row in Latin-1": ("user,tries\na,1\nb\u00fc,2\n", "Line 3 is not UTF-8", True),
    "semicolons": ("user;tries\na;1\n", "&#39;;&#39;", True),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_is_wrong_with_all_of_a_file_is_said_at_its_first_step(
    visitor: Visitor, client: Client, what: str
) -> None:
    if client.store.find_queue("looked") is None:
        queue(client, "looked")
    table, words, goes_on = SEEN[what]
    data = table.encode("latin-1")
    look = visitor.follow(visitor.send_file("/queues/looked/import", data, "people.csv"))
    assert look.status == 200 and words in look.text
    assert ("Next: columns" in look.text) == goes_on
    if not goes_on:
        address = next(one for one in Page(look.text).links if "step=map" in html.unescape(one))
        assert visitor.get(html.unescape(address)).status == 303, "there is no way round it"


def test_the_character_between_fields_can_be_chosen(visitor: Visitor, client: Client) -> None:
    queue(client, "divided")
    sent = visitor.send_file("/queues/divided/import", "user|tries,x\nann|1,2\n", "people.txt")
    address = sent.headers["location"]
    look = visitor.get(f"{address}&delimiter=,")
    assert 'value="," selected' in look.text and "user|tries" in look.text
    look = visitor.get(f"{address}&delimiter=|")
    assert 'value="|" selected' in look.text and ">tries,x</th>" in look.text
    form = choose(visitor.get(address.replace("step=file", "step=map")))
    found = checked(visitor, visitor.post(form.action, [*form.fields, ("to.1", "")]))
    assert "<b>1</b> fits" in found.text
    through(visitor, found)
    assert [one.document["parameters"] for one in client.find(Selection(queue="divided"))] == [{"user": "ann"}]


def test_rows_that_do_not_fit_are_named_as_a_spreadsheet_names_them(visitor: Visitor, client: Client) -> None:
    queue(client, "bad")
    table = (
        f"Mailbox user,tries,password\nann,1,{SECRET}\n{'x' * 30},2,s2\nbob,many,s3\n,4,s4\nwide,5,s5,6\ncarl,6,s6\n"
    )
    upload = visitor.send_file("/queues/bad/import", table, "people.csv").headers["location"]
    look = visitor.get(upload)
    form = choose(visitor.get(upload.replace("step=file", "step=map")))
    assert [dict(form.fields)[f"to.{n}"] for n in range(3)] == ["user", "tries", "password"]
    found = checked(visitor, visitor.post(form.action, form.fields))
    assert "<b>3</b> fit, <b>3</b> do not" in re.sub(r"\s+", " ", found.text)
    rows = re.findall(r'<th scope="row" class="n k">.*?(\d+)</th><td class="s nw">([^<]*)</td>', found.text)
    assert rows == [("3", "Mailbox user"), ("4", "tries"), ("6", "")]
    assert "at most 20 characters" in found.text and "many" in found.text and "a whole number" in found.text
    assert "3 fields, as the header has" in found.text and "many a whole number · at least 0" in text_of(found)
    assert "1 row has nothing in a required column, 'Mailbox user', and fits with an empty value" in text_of(found)
    assert re.findall(r'<th scope="col">(Line [^<]*|Task [^<]*)</th>', found.text) == ["Line 2", "Line 5", "Line 7"]
    table_of = visitor.get(next(one for one in Page(found.text).links if one.endswith("faults.csv")))
    lines = list(csv.DictReader(io.StringIO(table_of.data.decode("utf-8-sig"), newline="")))
    assert [one["line"] for one in lines] == ["3", "4", "6"] and lines[0]["password"] == "********"
    done = through(visitor, found)
    for page in (look, found, done, table_of):
        assert not [one for one in (SECRET, "s2", "s3", "s4") if f">{one}<" in page.text or SECRET in page.text]
    assert "secret" in found.text and ">3</a></dd>" in done.text and "<dd>3</dd>" in done.text
    users = [one.document["parameters"]["user"] for one in client.find(Selection(queue="bad"))]
    assert users == ["ann", "", "carl"]


def test_rows_that_are_the_same_are_named(visitor: Visitor, client: Client) -> None:
    table = "user,tries\nann,1\nbob,\nann,1\ncarl,x\ncarl,x\nbob,\n,\n,\nbob,2\n"
    found = check(visitor, queue(client, "same"), table, {})
    assert "2 rows are the same as an earlier one, and each becomes a task: lines 4, 7" in text_of(found)
    assert "required column" not in found.text
    with_keys = check(visitor, "same", table, {"key": "0"})
    assert "the same as an earlier one" not in with_keys.text


def test_an_empty_value_that_does_not_fit_is_said_in_words(visitor: Visitor, client: Client) -> None:
    found = check(visitor, queue(client, "strict", "Strict"), "to,note\nann,1\n,2\n", {})
    assert "to empty must not be empty" in text_of(found) and "nothing in a required column" not in text_of(found)


def test_a_row_with_line_ends_in_a_field_is_one_row_of_a_spreadsheet(visitor: Visitor, client: Client) -> None:
    queue(client, "lines")
    table = f'sep=,\nuser,tries\n"a\nb\nc",1\n\n{"x" * 30},2\n'
    found = check(visitor, "lines", table, {})
    assert re.findall(r'<th scope="row" class="n k">.*?(\d+)</th>', found.text) == ["4"], "header 1, then 2, an empty 3"
    done = through(visitor, found)
    assert re.findall(r'<th scope="row" class="n k">.*?(\d+)</th>', done.text) == ["4"]
    assert [one.document["parameters"]["user"] for one in client.find(Selection(queue="lines"))] == ["a\nb\nc"]


def test_mended_rows_are_sent_again_with_the_same_columns(visitor: Visitor, client: Client) -> None:
    queue(client, "mended")
    table = f"who,n\nann,1\n{'x' * 30},2\n"
    found = check(visitor, "mended", table, {"to.0": "user", "to.1": "tries", "/password": SECRET})
    again = html.unescape(next(one for one in Page(found.text).links if "like=" in one))
    rows = visitor.get(next(one for one in Page(found.text).links if one.endswith("faults.csv"))).text
    done = through(visitor, found)
    assert "Mend and send them" in done.text and SECRET not in done.text
    later = html.unescape(next(one for one in Page(done.text).links if "like=" in one))
    assert "become what they did" in visitor.get(later).text
    mended = visitor.send_file(later, rows.replace("x" * 30, "bob"), "mended.csv")
    form = choose(visitor.get(mended.headers["location"].replace("step=file", "step=map")))
    fields = dict(form.fields)
    assert [fields[f"to.{n}"] for n in range(4)] == ["user", "tries", "", ""], "line and reason are no parameters"
    assert fields["/password"] == "", "a secret of an import that was begun is given again"
    found = checked(visitor, visitor.post(form.action, form.fields))
    assert "<b>1</b> fits" in found.text
    through(visitor, found)
    users = {one.document["parameters"]["user"] for one in client.find(Selection(queue="mended"))}
    assert users == {"ann", "bob"} and again != later


def test_what_is_chosen_for_columns_is_checked_before_any_row(visitor: Visitor, client: Client) -> None:
    queue(client, "chosen")
    sent = visitor.send_file("/queues/chosen/import", "a,b\n1,2\n", "people.csv")
    address = sent.headers["location"].replace("step=file", "step=map")
    form = choose(visitor.get(address))
    for given, words in (
        ({"to.0": "", "to.1": ""}, "choose a parameter for at least one column"),
        ({"to.0": "tries", "to.1": ""}, "user: required; choose a column, or give a value"),
        ({"to.0": "user", "to.1": "user"}, "user is what &#39;a&#39; becomes"),
        ({"to.0": "user", "to.1": "tries", "/tries": "4"}, "tries has the same value for all tasks"),
        ({"to.0": "user", "/tries": "four"}, "expected a whole number"),
        ({"to.0": "user", "priority": "high"}, "expected a whole number"),
        ({"to.0": "user", "when": "soonish"}, "soonish"),
        ({"to.0": "user", "/password": "********"}, "is not the secret"),
    ):
        kept = [(name, value) for name, value in form.fields if name not in given]
        reply = visitor.post(form.action, [*kept, *given.items()])
        assert reply.status == 422 and words in reply.text, (given, text_of(reply))
        assert 'id="faults"' in reply.text
    constant = {"to.0": "", "to.1": "tries", "/user": "everybody", "/password": SECRET}
    kept = [(name, value) for name, value in form.fields if name not in constant]
    found = checked(visitor, visitor.post(form.action, [*kept, *constant.items()]))
    assert SECRET not in found.text and "secret" in found.text and "everybody" in found.text
    back = visitor.get(address)
    assert SECRET not in back.text and "given before" in back.text
    form = choose(back)
    through(visitor, checked(visitor, visitor.post(form.action, form.fields)))
    (task,) = client.find(Selection(queue="chosen"))
    assert task.document["parameters"] == {"user": "everybody", "tries": 2, "password": SECRET}
    assert list(task.document["secrets"]) == ["/password"]


def test_the_same_file_makes_new_tasks_unless_a_unique_key_is_chosen(visitor: Visitor, client: Client) -> None:
    queue(client, "again")
    through(visitor, check(visitor, "again", people(4), {"key": "0"}))
    sent = visitor.send_file("/queues/again/import", people(4), "other_name.csv")
    look = visitor.follow(sent)
    assert "imported into this queue before" in look.text and "new tasks" in look.text
    form = choose(visitor.get(sent.headers["location"].replace("step=file", "step=map")))
    with_key = [(name, "0" if name == "key" else value) for name, value in form.fields]
    without = checked(visitor, visitor.post(form.action, form.fields))
    assert "imported into this queue before" in without.text
    found = checked(visitor, visitor.post(form.action, with_key))
    assert "imported into this queue before" not in found.text
    assert "<dt>existing</dt><dd>4</dd>" in through(visitor, found).text
    assert client.count(Selection(queue="again")) == 4


def test_objects_are_taken_as_they_are_or_by_their_names(visitor: Visitor, client: Client) -> None:
    queue(client, "objects")
    lines = f'{{"user": "ann", "password": "{SECRET}"}}\n{{"user": "bob", "tries": 2}}\n'
    sent = visitor.send_file("/queues/objects/import", lines, "people.ndjson")
    assert SECRET not in visitor.get(sent.headers["location"]).text
    form = choose(visitor.get(sent.headers["location"].replace("step=file", "step=map")))
    assert dict(form.fields)["whole"] == "yes"
    assert "<b>2</b> fit" in checked(visitor, visitor.post(form.action, form.fields)).text
    by_name = [(name, {"whole": "no", "to.1": ""}.get(name, value)) for name, value in form.fields]
    through(visitor, checked(visitor, visitor.post(form.action, by_name)))
    found = [one.document["parameters"] for one in client.find(Selection(queue="objects"))]
    assert found == [{"user": "ann"}, {"user": "bob", "tries": 2}]


def test_a_queue_that_nobody_knows_more_of_takes_any_columns(visitor: Visitor, client: Client) -> None:
    queue(client, "unknown", "Nobody::Has")
    found = check(visitor, "unknown", "a,b.c\n1,2\n", {})
    assert "has published what it takes" in found.text
    through(visitor, found)
    assert [one.document["parameters"] for one in client.find(Selection(queue="unknown"))] == [
        {"a": "1", "b": {"c": "2"}}
    ]
