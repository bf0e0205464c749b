"""The helper libraries, each as its users have it: one file beside a program. Held against the vectors, and run by the
host in both modes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import plain
from helpers.nodes import Cluster, write_plugin
from helpers.stores import one_store_each

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
WORKER_CASES = [
    case for case in json.loads((ROOT / "protocol/vectors/workers.json").read_text())["cases"] if case.get("helper")
]

# What protocol/vectors/README.md says of the plugin of the `helper` cases.
CONFORMANCE = {
    "python": (
        "plugin.py",
        ["python/disbatch_plugin/disbatch_plugin.py"],
        """#!/usr/bin/env python3
import disbatch_plugin

def odd(value):
    if isinstance(value, list):
        return [odd(one) for one in value]
    if isinstance(value, dict):
        if "odd" in value:
            return {"nan": float("nan"), "text": "caf\\udce9"}[value["odd"]]
        return {name: odd(one) for name, one in value.items()}
    return value

def work(task):
    say = {
        "progress": task.progress,
        "log": lambda level, message, fields: task.log(message, level, **fields),
        "status": task.status,
        "set": lambda fields: task.set(**fields),
        "result": task.result,
        "error": lambda code, message, detail, retry: task.error(message, code, detail, retry),
        "snooze": task.snooze,
        "tasks": lambda tasks: task.follow_up(*tasks),
    }
    for event, *given in task.parameters.get("events", ()):
        say[event](*odd(given))
    text, times = task.parameters.get("print", ("", 0))
    for _ in range(times):
        print(text, end="")
    if "throw" in task.parameters:
        raise RuntimeError(task.parameters["throw"])
    return task.parameters.get("exit")

disbatch_plugin.run(work)
""",
    ),
    "perl": (
        "plugin.pl",
        ["perl/DisbatchPlugin.pm"],
        """#!/usr/bin/env perl
use strict; use warnings; use FindBin; use lib $FindBin::Bin;
use DisbatchPlugin;
sub odd {
    my ($value) = @_;
    return [map { odd($_) } @$value] if ref $value eq 'ARRAY';
    return $value if ref $value ne 'HASH';
    return 9**9**9 / 9**9**9 if ($value->{odd} // '') eq 'nan';
    return "caf\\x{dce9}" if ($value->{odd} // '') eq 'text';
    return { map { $_ => odd($value->{$_}) } keys %$value };
}
DisbatchPlugin::run(sub {
    my ($task) = @_;
    my %say = (
        progress => sub { $task->progress(@_) },
        log      => sub { $task->log($_[1], $_[0], $_[2]) },
        status   => sub { $task->status(@_) },
        set      => sub { $task->set(@_) },
        result   => sub { $task->result(@_) },
        error    => sub { $task->error($_[1], code => $_[0], detail => $_[2], retry => $_[3]) },
        snooze   => sub { $task->snooze(@_) },
        tasks    => sub { $task->follow_up(@{ $_[0] }) },
    );
    for my $event (@{ $task->{parameters}{events} // [] }) {
        my ($name, @given) = @$event;
        $say{$name}->(map { odd($_) } @given);
    }
    my ($text, $times) = @{ $task->{parameters}{print} // ['', 0] };
    print $text for 1 .. $times;
    die "$task->{parameters}{throw}\\n" if defined $task->{parameters}{throw};
    return $task->{parameters}{exit};
});
""",
    ),
}


def write_conformance(directory: Path, language: str, **manifest: Any) -> Path:
    file, library, program = CONFORMANCE[language]
    home = write_plugin(directory, f"Conformance_{language}", program, file=file, **manifest)
    for name in library:
        shutil.copy(PLUGINS / name, home)
    return home


@pytest.mark.parametrize("case", WORKER_CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("language", CONFORMANCE)
def test_worker_vector_from_the_librarys_side(
    tmp_path: Path, language: str, case: dict[str, Any], require: Callable[[str], None]
) -> None:
    require({"python": "python3"}.get(language, language))
    program = write_conformance(tmp_path, language) / CONFORMANCE[language][0]
    events_read, events_write = os.pipe()
    script = f'exec "$0" 3>&{events_write}'
    printed: list[bytes] = []
    with (
        subprocess.Popen(
            ["bash", "-c", script, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(events_write,),
            env={**os.environ, "DISBATCH_MODE": "worker", "DISBATCH_EVENT_FD": "3"},
        ) as plugin,
        os.fdopen(events_read, "rb") as events,
    ):
        os.close(events_write)
        assert plugin.stdin is not None and plugin.stdout is not None and plugin.stderr is not None
        stdout, errors = plugin.stdout, plugin.stderr
        reader = threading.Thread(target=lambda: printed.append(stdout.read()))
        reader.start()
        for step in case["talk"]:
            if step.get("host_closes_stdin"):
                plugin.stdin.close()
            elif step.get("host_kills"):
                plugin.kill()
            elif "host" in step:
                plugin.stdin.write(json.dumps(step["host"]).encode() + b"\n")
                plugin.stdin.flush()
            else:
                line = events.readline()
                assert line, errors.read().decode()
                event = json.loads(line)
                for name, wanted in step["plugin"].items():
                    is_open = isinstance(wanted, str) and wanted.startswith("…")
                    assert event[name].endswith(wanted[1:]) if is_open else event[name] == wanted
        assert events.read() == b""
        assert plugin.wait(20) == (-9 if "host_kills" in case["talk"][-1] else 0), errors.read().decode()
        reader.join(20)
    assert "printed_bytes" not in case or len(printed[0]) == case["printed_bytes"]


def test_the_node_library_by_its_own_tests(require: Callable[[str], None]) -> None:
    require("node")
    ran = subprocess.run(
        ["node", "--test", "disbatch.test.cjs"], cwd=PLUGINS / "node", capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and "# pass 0" not in ran.stdout, ran.stdout


def test_the_go_library_by_its_own_tests(require: Callable[[str], None]) -> None:
    require("go")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOPROXY": "off", "GOWORK": "off", "GOFLAGS": "-trimpath"}
    for command in (["go", "vet", "."], ["go", "test", "-count=1", "-v", "."]):
        ran = subprocess.run(
            command, cwd=PLUGINS / "go/disbatch", capture_output=True, text=True, check=False, env=environment
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "--- PASS: TestWorkerVectors/one_task" in ran.stdout


@pytest.mark.parametrize("mode", ["oneshot", "worker"])
@one_store_each("store_url", "language", CONFORMANCE)
def test_one_source_serves_both_modes(
    cluster: Cluster, language: str, mode: str, require: Callable[[str], None]
) -> None:
    require({"python": "python3"}.get(language, language))
    write_conformance(cluster.plugins, language, mode=mode)
    queue = cluster.queue(f"Conformance_{language}")
    events = [["log", "info", "Zürich ☕", {}], ["result", {"a": [1, "ü"]}], ["tasks", [{"queue": "next"}]]]
    works, fails, throws = cluster.push(queue, {"events": events}, {"exit": 3}, {"throw": "no luck"})
    cluster.run()
    document = cluster.task(works).document
    assert (document["status"], document["result"]) == (1, {"a": [1, "ü"]})
    assert document["log"][0]["message"] == "Zürich ☕" and len(cluster.tasks(queue="next")) == 1
    assert cluster.task(fails).run["exit_code"] == 3
    thrown = cluster.task(throws).document
    message = {"python": "RuntimeError: no luck", "perl": "no luck"}[language]
    assert (thrown["status"], thrown["error"]["code"], thrown["error"]["message"]) == (2, "exception", message)
    assert "no luck" in thrown["stderr"]


ERRORS = {
    "python": [
        ("import disbatch_plugin\ndisbatch_plugin.run(lambda task: {}['missing'])", "KeyError: 'missing'"),
        ("import disbatch_plugin\ndisbatch_plugin.run(lambda task: [].index('x'))", "ValueError: 'x' is not in list"),
        ("import disbatch_plugin\ndef work(task):\n    raise RuntimeError\ndisbatch_plugin.run(work)", "RuntimeError"),
        (
            "import disbatch_plugin, json\ndisbatch_plugin.run(lambda task: json.loads('['))",
            "json.decoder.JSONDecodeError: Expecting value: line 1 column 2 (char 1)",
        ),
        (
            "import disbatch_plugin\nclass Odd(Exception):\n    def __str__(self):\n        return None\n"
            "def work(task):\n    raise Odd\ndisbatch_plugin.run(work)",
            "Odd",
        ),
    ],
    "perl": [
        ("use lib '.'; use DisbatchPlugin; DisbatchPlugin::run(sub { die \"no luck\\n\" });", "no luck"),
        ("use lib '.'; use DisbatchPlugin; DisbatchPlugin::run(sub { die { code => 7 } });", '{"code":7}'),
        ("use lib '.'; use DisbatchPlugin; DisbatchPlugin::run(sub { die bless({}, 'My::Error') });", "My::Error"),
        (
            "use lib '.'; use DisbatchPlugin; package My::Error { use overload '\"\"' => sub { 'no luck' } }\n"
            "DisbatchPlugin::run(sub { die bless({}, 'My::Error') });",
            "My::Error: no luck",
        ),
    ],
}


@pytest.mark.parametrize(("language", "program", "message"), [(name, *one) for name in ERRORS for one in ERRORS[name]])
def test_an_error_says_its_type(
    tmp_path: Path, language: str, program: str, message: str, require: Callable[[str], None]
) -> None:
    """Incident: of a KeyError the task kept only the key, and all exceptions of 20,000 tasks were one kind."""
    interpreter = {"python": sys.executable, "perl": "perl"}[language]
    require({"python": "python3"}.get(language, language))
    shutil.copy(PLUGINS / CONFORMANCE[language][1][0], tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISBATCH_")}
    option = {"python": "-c", "perl": "-e"}[language]
    ran = subprocess.run(
        [interpreter, option, program], input="{}", capture_output=True, text=True, check=False, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    event = json.loads(ran.stderr.splitlines()[-1].removeprefix("event: "))
    assert (ran.returncode, event["message"], event["code"]) == (1, message, "exception")


SHELL = r"""#!{shell}
. "$(dirname -- "$0")/disbatch.sh"
disbatch_read || exit
disbatch_param name name || exit 2
disbatch_param times times 1
disbatch_progress 0.5 'half of it'
disbatch_log warning "about \"$name\"" ms 12 'a b' 'c
d'
disbatch_set mailbox "$name"
disbatch_set_json numbers '[1, 2]'
disbatch_result "$name"
disbatch_follow_up next name "$name"
disbatch_follow_up_json next '{{"n": 1}}'
disbatch_follow_up next
case $name in
nobody) disbatch_error 'no such user' auth_failed false "$(printf 'long\ttext \001')" ;;
seven) disbatch_status 7 ;;
eight) disbatch_result_json '{{"a": 1}}' 8 ;;
later) disbatch_snooze 3600 quota ;;
esac
printf '%s|%s\n' "$name" "$times"
"""


@one_store_each("store_url", "shell", ["/bin/sh", "/bin/bash"])
def test_the_shell_library_says_every_event(cluster: Cluster, shell: str) -> None:
    home = cluster.plugin("Shell", SHELL.format(shell=shell))
    shutil.copy(PLUGINS / "shell/disbatch.sh", home)
    queue = cluster.queue("Shell")
    odd = 'Zürich "☕" \\ back\n\n'
    fine, nobody, seven, eight, later, missing = cluster.push(
        queue, {"name": odd, "times": 3}, *({"name": name} for name in ("nobody", "seven", "eight", "later")), {}
    )
    node = cluster.start()
    for task_id, status in ((fine, 1), (nobody, 2), (seven, 7), (eight, 8), (later, -4), (missing, 2)):
        cluster.wait_for_status(task_id, status)
    node.terminate()
    node.wait(20)
    document = cluster.task(fine).document
    assert (document["stdout"], document["result"], document["mailbox"]) == (f"{odd}|3\n", odd, odd)
    assert (document["numbers"], document["progress"]) == ([1, 2], {"value": 0.5, "message": "half of it"})
    assert document["log"][0]["message"] == f'about "{odd}"' and document["log"][0]["fields"]["a b"] == "c\nd"
    assert "event_errors" not in document["run"]
    assert [task.document["parameters"] for task in cluster.tasks(queue="next")] == [{"name": odd}, {"n": 1}, {}]
    assert plain(cluster.task(nobody).document["error"]) == {
        "code": "auth_failed", "message": "no such user", "retry": False, "detail": "long\ttext \x01",
    }  # fmt: skip
    assert 'expected a parameter "name"' in cluster.task(missing).document["stderr"]


def test_the_shell_library_works_by_hand(tmp_path: Path) -> None:
    home = write_plugin(tmp_path, "Shell", SHELL.format(shell="/bin/sh"))
    shutil.copy(PLUGINS / "shell/disbatch.sh", home)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISBATCH_")}
    ran = subprocess.run(
        [home / "run.sh"], input='{"parameters":{"name":"Matt"}}', capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    assert ran.stdout == "Matt|1\n"
    assert 'event: {"type":"progress","value":0.5,"message":"half of it"}' in ran.stderr


def quoted(text: bytes) -> str:
    """What disbatch_quote prints for these bytes."""
    ran = subprocess.run(
        ["sh", "-c", '. "$0"; disbatch_quote "$(cat)"', PLUGINS / "shell/disbatch.sh"],
        input=text, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    return str(json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("what", "times"),
    [('"', 300_000), ("a line\n", 50_000), ("\\", 200_000), ("xyz\U0001f600", 50_000), ("\u00e9", 99)],
)
def test_the_shell_library_quotes_long_text(what: str, times: int) -> None:
    """Incident: it took the square of the number of lines and of quotes; 1,000,000 quotes were not done in minutes."""
    assert quoted((what * times + ".").encode()) == what * times + "."


def test_the_shell_library_quotes_bytes_that_are_no_text() -> None:
    data = b"caf\xe9 caf\xc3\xa9 \xf0\x9f\x98\x80\xff \xed\xb3\xa9 \xe2\x82"
    assert quoted(data) == "caf\ufffd caf\u00e9 \U0001f600\ufffd \ufffd\ufffd\ufffd \ufffd\ufffd"


def test_the_python_library_is_a_package_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PLUGINS / "python/disbatch_plugin", source)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "to", source],
                   check=True)  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", "import disbatch_plugin; disbatch_plugin.run(lambda task: print(task.parameters))"],
        input='{"parameters":{"a":1}}', capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "to")},
    )  # fmt: skip
    assert ran.stdout == "{'a': 1}\n"
