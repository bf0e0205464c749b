"""docs/operations.md and the systemd unit beside it: what can be typed is typed, everything else is held against the
program: every command parses, every metric is one, the settings and the rights are enough for a node."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pymongo
import pytest

from acceptance.conftest import PROGRAM, Terminal
from acceptance.test_help import calls, parse
from acceptance.test_metrics import scrape, url_of, wait_for
from acceptance.test_plugins_guide import commands, pattern
from disbatch_host.clock import SystemClock
from disbatch_host.store.open import open_store
from disbatch_protocol.groups import group_of
from disbatch_protocol.quantities import parse_duration
from helpers import nodes
from helpers.mongod import Mongod
from helpers.nodes import UNKNOWN_FORMAT, Cluster
from helpers.processes import wait_until
from helpers.stores import on_sqlite

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "operations.md"
UNIT = DOCS / "disbatch-host.service"
TEMPLATE = DOCS / "disbatch-host@.service"
NIGHTLY = DOCS / "disbatch-nightly.service"
TIMER = DOCS / "disbatch-nightly.timer"
PASSWORD = "s3cret"


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, language
    return found


def unit(file: Path = UNIT) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(file.read_text())
    return parser


def test_what_can_be_typed_does_what_the_page_shows(
    terminal: Terminal, tmp_path: Path, require: Callable[[str], None]
) -> None:
    require("sqlite3")
    place = tmp_path / "place"
    (place / "plugins").mkdir(parents=True)
    path = f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}"
    environment = {**terminal.environment, "PATH": path, "DISBATCH_STORE": f"sqlite://{place}/disbatch.db"}
    steps = 0
    for text in blocks("console"):
        for command, expected in commands(text):
            done = subprocess.run(
                ["bash", "-c", command], cwd=place, env=environment, text=True, check=False, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            shown = done.stdout + (f"[exit code {done.returncode}]\n" if done.returncode else "")
            assert re.fullmatch(pattern(expected), shown), (command, shown)
            assert done.returncode == 0, (command, shown)
            steps += 1
    assert steps > 12


def test_every_command_on_the_page_is_one() -> None:
    """Those of the tables and of the blocks that only an administrator can run, up to the call itself."""
    text = PAGE.read_text()
    in_blocks = [line for block in blocks("bash") for line in block.splitlines()]
    lines = [*re.findall(r"`(disbatch-host [^`]+)`", text), *in_blocks]
    lines = [re.sub(r"^sudo -u \w+ ", "", line) for line in lines]
    found = [words for line in lines if line.startswith("disbatch-host ") for words in calls(line)]
    assert len(found) > 40
    for words in found:
        if "--help" not in words:
            parse(words)


@on_sqlite
def test_every_metric_of_a_node_is_on_the_page_and_no_other(cluster: Cluster) -> None:
    (cluster.plugin("Gone", "exit 0") / "run.sh").write_bytes(UNKNOWN_FORMAT)
    cluster.plugin("Fine", "exit 0")
    cluster.push(cluster.queue("Gone", "q1"), *({} for _ in range(6)))
    cluster.push(cluster.queue("Fine", "q2"), {})
    cluster.plugin("Fails", "exit 3")
    cluster.push(cluster.queue("Fails", "q3"), {})
    cluster.queue("Fine", "q4", paused=True)
    process = cluster.start(
        "--metrics", "127.0.0.1:0", "--max-total", "5", "--heartbeat", "0.2", pace={"census_seconds": 0.1}
    )
    url = url_of(cluster)
    wait_for(url, "disbatch_plugin_set_aside", 1, **{"class": "Gone"})
    wait_for(url, "disbatch_tasks", 1, queue="q2", status="concluded")
    group = group_of("exit_3", "disbatch-host: it ended with exit code 3 and nothing on stderr").key
    wait_for(url, "disbatch_tasks_failed_total", 1, **{"class": "Fails", "code": "exit_3", "group": group})
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in scrape(url).names() if not name.endswith("_created")}
    of_node = {name for name in names if name.startswith("disbatch_")}
    on_page = set(re.findall(r"\bdisbatch_(?!host\b|keys|limits)[a-z_]+", PAGE.read_text()))
    assert on_page == of_node
    process.terminate()
    assert process.wait(30) == 0


def test_the_record_of_a_machine_that_is_gone_is_removed_as_the_page_says(on_store: Terminal) -> None:
    [command] = [
        line for block in blocks("bash") for line in block.splitlines() if line.startswith("disbatch-host node delete")
    ]
    lost = subprocess.Popen(
        [str(PROGRAM), "--node-id", "mig01", "--heartbeat", "0.2", "--dead-after", "1"],
        cwd=on_store.directory, env=on_store.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: bool(on_store("node", "list", "--json").out), 30, "the node did not begin")
    lost.kill()
    lost.wait()
    wait_until(lambda: on_store(*command.split()[1:]).code == 0, 60, "it was not taken for dead")
    assert on_store.fine("node", "list", "--json").out == ""


def test_the_settings_on_the_page_are_settings(terminal: Terminal) -> None:
    for number, block in enumerate(blocks("json")):
        settings = {**json.loads(block), "plugins": "plugins", "metrics": "127.0.0.1:0"}
        (terminal.directory / f"{number}.json").write_text(json.dumps(settings))
        result = terminal.fine("--config", f"{number}.json", "--until-idle", "--node-id", "n1")
        assert all(json.loads(line) for line in result.err.splitlines()), "log_format is json"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_an_administrators_shell_reaches_the_store_as_the_page_says(terminal: Terminal, shell: str) -> None:
    """Without quotes, a shell stopped at the `&` of a URL and left the variable empty: "no queues", exit code 0."""
    etc = terminal.directory / "etc"
    etc.mkdir()
    install, use = (
        _block(start).replace("/etc/disbatch", str(etc)) for start in ("install -m 600 /dev/null /etc", "set -a")
    )
    [url] = re.findall("DISBATCH_STORE='(.*)'", install)
    assert "&" in url
    write = install[: install.index("install -m 644")]
    for script, wanted in (
        (f"{write}{use.splitlines()[0]}\nprintenv DISBATCH_STORE", url),
        (f"{write.replace(url, _store(terminal))}{use}", "mail "),
    ):
        shown = _typed(terminal, shell, script)
        assert wanted in shown, shown
    assert (etc / "store.env").stat().st_mode & 0o777 == 0o600


def test_somebodys_own_configuration_file_reaches_the_store_as_the_page_says(terminal: Terminal) -> None:
    script = _block("install -m 600 /dev/null ~/disbatch.json")
    [url] = re.findall('"store": "(mongodb:.*?)"', script)
    assert "mail " in _typed(terminal, "bash", script.replace(url, _store(terminal)))
    assert (terminal.directory / "disbatch.json").stat().st_mode & 0o777 == 0o600


def test_the_page_prints_a_password_percent_encoded() -> None:
    [line] = [line for block in blocks("bash") for line in block.splitlines() if "urllib" in line]
    line = line.replace("getpass.getpass()", "input()")
    done = subprocess.run(["bash", "-c", line], input="p@s s/w'%\n", capture_output=True, text=True, check=True)
    assert done.stdout == "p%40s%20s%2Fw%27%25\n"


def _block(start: str) -> str:
    [found] = [block for block in blocks("bash") if block.startswith(start)]
    return found


def _store(terminal: Terminal) -> str:
    """The URL of a store that is not the default one, with a queue named mail."""
    url = f"sqlite://{terminal.directory}/elsewhere.db"
    terminal.fine("queue", "create", "mail", "--class", "mail", "--store", url)
    return url


def _typed(terminal: Terminal, shell: str, script: str) -> str:
    path = f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}"
    done = subprocess.run(
        [shell, "-e", "-c", script], cwd=terminal.directory, env={**terminal.environment, "PATH": path}, text=True,
        check=True, timeout=60, stdout=subprocess.PIPE,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def server_with_login(own_mongod: Callable[..., Mongod]) -> Iterator[Mongod]:
    """A replica set, as nodes have it in production: the right to be told of changes is used."""
    with own_mongod(wants_login=True) as server:
        yield server


def test_what_the_page_points_to_is_there() -> None:
    text = PAGE.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = target.partition("#")
        assert (DOCS / file).exists() if file else heading in headings, target


def test_the_unit_gives_the_node_the_time_that_it_takes() -> None:
    service = unit()["Service"]
    program, *words = service["ExecStart"].split()
    assert program.endswith("/bin/disbatch-host")
    options = parse(words).params
    assert parse_duration(service["TimeoutStopSec"].replace("min", "m")) > parse_duration(options["stop_grace"]) + 10
    assert service["KillMode"] == "process" and options["on_stop"] == "keep" and service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert "DISBATCH_STORE" not in service.get("Environment", ""), "systemctl show would tell it to everybody"


def test_every_line_of_the_unit_that_the_page_explains_is_in_it() -> None:
    service = unit()["Service"]
    section = PAGE.read_text().split("### The unit")[1].split("### Several nodes")[0]
    for cell in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE):
        for name, value in re.findall(r"`([A-Z]\w+)=([^`]*)`", cell):
            assert name in service and (not value or service[name] == value), cell


def test_the_template_is_the_unit_with_a_node_id() -> None:
    one, several = unit(), unit(TEMPLATE)
    several["Unit"]["Description"] = several["Unit"]["Description"].removesuffix(" %i")
    assert several["Service"].pop("Environment") == "DISBATCH_NODE_ID=%i"
    several["Service"]["ExecStart"] = several["Service"]["ExecStart"].replace("%i.json", "host.json")
    assert one == several


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    ("file", "name"),
    [(UNIT, UNIT.name), (TEMPLATE, "disbatch-host@mig01.service"), (NIGHTLY, NIGHTLY.name), (TIMER, TIMER.name)],
)
def test_systemd_understands_the_unit(file: Path, name: str, tmp_path: Path) -> None:
    """With programs and an account that this machine has."""
    text = file.read_text().replace("/opt/disbatch/venv/bin/disbatch-host", str(PROGRAM))
    copy = tmp_path / name
    (tmp_path / NIGHTLY.name).write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")  # what the timer starts
    copy.write_text(text.replace("User=disbatch", "User=root").replace("Group=disbatch", "Group=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    # systemd before 254 passes over where the node is to be in its control group, and says so.
    about_it = [line for line in done.stderr.splitlines() if copy.name in line and "'DelegateSubgroup'" not in line]
    assert about_it == [] and done.returncode == 0, done.stderr


def nightly_commands() -> dict[str, list[str]]:
    """The command lines of the unit and of cron, as these hand them to a shell."""
    lines = re.findall(r"^ExecStart=(.*)$", NIGHTLY.read_text(), re.MULTILINE)
    [cron] = blocks("cron")
    return {
        "systemd": [line.replace("$$", "$").replace("%%", "%") for line in lines],
        "cron": [cron.split(maxsplit=6)[6].replace("\\%", "%")],
    }


@on_sqlite
@pytest.mark.parametrize("by", ["systemd", "cron"])
def test_the_batch_of_a_night_is_made_once(on_store: Terminal, tmp_path: Path, by: str) -> None:
    """And a user whose task of the night before has not ended gets no other."""
    (tmp_path / "mailboxes.csv").write_text("user\nann\nbob\n")
    (tmp_path / "store.env").write_text(f"DISBATCH_STORE='{on_store.environment['DISBATCH_STORE']}'\n")
    on_store.fine("queue", "create", "mail", "--class", "Mail::Move")
    on_store.fine("task", "push", "mail", "-p", "user=bob", "--unique-key", "bob")
    places = {
        "/opt/disbatch/venv/bin/disbatch-host": str(PROGRAM), "/etc/disbatch/store.env": f"{tmp_path}/store.env",
        "/srv/mailboxes.csv": f"{tmp_path}/mailboxes.csv", "$(date +%F)": "2026-11-30",  # midnight may pass meanwhile
    }  # fmt: skip
    environment = {**on_store.environment, "PATH": f"{PROGRAM.parent}{os.pathsep}{on_store.environment['PATH']}"}

    def typed(command: str) -> subprocess.CompletedProcess[str]:
        for name, place in places.items():
            command = command.replace(name, place)
        return subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    push, *others = nightly_commands()[by]
    assert typed(push).stdout.startswith("1 task created in queue mail, batch nightly-2026-11-30")
    again = typed(push)
    assert again.returncode == 2 and "takes no more tasks" in again.stderr
    (batch,) = on_store.fine("batch", "list", "--json").json
    assert (batch["_id"], batch["state"]) == ("nightly-2026-11-30", "closed")
    on_store.fine("task", "cancel", "--batch", "@last", "--yes")
    for command in others:
        waited = typed(command)
        assert waited.returncode == 1 and waited.stderr.endswith("1 cancelled\n")


@pytest.mark.mongodb
def test_the_role_on_the_page_is_enough_for_a_node_and_for_every_change(
    server_with_login: Mongod, tmp_path: Path
) -> None:
    [role] = [re.sub(r"^db\.createRole\(|\)\s*$", "", block) for block in blocks("js")]
    document = json.loads(role)
    with pymongo.MongoClient(server_with_login.url) as client:
        client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    with pymongo.MongoClient(server_with_login.database_url("admin", login=f"root:{PASSWORD}")) as client:
        database = client["disbatch"]
        database.command(
            {"createRole": document["role"], "privileges": document["privileges"], "roles": document["roles"]}
        )
        database.command("createUser", "node", pwd=PASSWORD, roles=[document["role"]])
    url = server_with_login.database_url("disbatch", login=f"node:{PASSWORD}")
    store = open_store(url, SystemClock())
    store.open()
    with nodes.cluster(url, store, tmp_path) as cluster:
        cluster.plugin("Large", "head -c 3000000 /dev/zero | tr '\\0' x")
        environment = {**os.environ, "DISBATCH_STORE": url}
        terminal = Terminal(tmp_path, environment)
        terminal.fine("queue", "create", "q", "--class", "Large", "--maxtotal", "2", "--rate", "100/s")
        done, waiting = (
            terminal.fine("task", "push", "q", "{}", "--unique-key", key, *more).out.strip()
            for key, more in (("a", ()), ("b", ("--delay", "1h")))
        )
        process = cluster.start()
        assert terminal.fine("task", "wait", done).code == 0
        assert len(terminal.fine("task", "output", done).out) == 3000000
        by_name = {one["name"]: one for one in terminal.fine("doctor", "--json").json[0]["checks"]}
        assert {by_name[name]["verdict"] for name in ("store", "layout", "rights", "indexes", "queues")} == {"ok"}
        terminal.fine("node", "drain", "n1", "--wait")
        terminal.fine("node", "stop", "n1", "--wait")
        assert process.wait(30) == 0
        terminal.fine("task", "cancel", waiting)
        terminal.fine("task", "retry", waiting)
        terminal.fine("task", "cancel", waiting)
        (tmp_path / "rows.ndjson").write_text("{}\n{}\n")
        terminal.fine("task", "import", "q", "rows.ndjson")
        terminal.fine("task", "cancel", "--queue", "q", "--yes")
        terminal.fine("task", "delete", done, waiting, "--yes")
        terminal.fine("queue", "delete", "q", "--yes")
        assert "rights" not in cluster.log() and "refuses" not in cluster.log(), cluster.log()
    store.close()
