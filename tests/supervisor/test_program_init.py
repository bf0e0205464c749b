"""`disbatch-supervisor --init`: the first process of a container, which keeps a node there."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import skip_or_fail
from disbatch_host.process import connection
from disbatch_protocol.status import Status
from helpers import supervisors
from helpers.nodes import QUICK_TO_SEE, Cluster
from helpers.processes import state_of, wait_until
from helpers.supervisors import children_of, name_of

pytestmark = supervisors.usable()


def init(*command: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [supervisors.program(), "--init", "--", *command],
        cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=30)
    return process.returncode, out, errors


@pytest.mark.parametrize("code", [0, 2])
def test_a_command_that_was_meant_to_end_is_the_end(tmp_path: Path, code: int) -> None:
    assert ended(init("sh", "-c", f"echo once; exit {code}", directory=tmp_path)) == (code, "once\n", "")


@pytest.mark.parametrize("how", ["kill -KILL $$", "exit 3"])
def test_a_command_that_ends_otherwise_is_started_again(tmp_path: Path, how: str) -> None:
    script = f"echo x >>starts; [ $(wc -l <starts) = 2 ] && exit 0; {how}"
    code, _, errors = ended(init("sh", "-c", script, directory=tmp_path))
    number = 137 if "KILL" in how else 3
    assert code == 0 and (tmp_path / "starts").read_text() == "x\nx\n"
    assert errors == f"disbatch-supervisor: sh ended with {number}; it is started again in 1 s\n"


def test_a_command_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    code, _, errors = ended(init("/no/such/command", directory=tmp_path))
    assert (code, errors) == (127, "disbatch-supervisor: cannot execute the command: No such file or directory\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_goes_to_the_command_and_is_the_end(tmp_path: Path, number: signal.Signals) -> None:
    script = "trap 'exit 7' TERM INT; : >ready; while :; do sleep 0.02; done"
    process = init("sh", "-c", script, directory=tmp_path)
    wait_until((tmp_path / "ready").exists, 20)
    process.send_signal(number)
    assert ended(process) == (7, "", "")


def test_an_interrupt_of_a_terminal_reaches_the_command_once() -> None:
    """To a node, the second one means that its runs are to stop now."""
    script = (
        "import signal, time; heard = []; signal.signal(signal.SIGINT, lambda *_: heard.append(1)); print('ready')\n"
        "while not heard: time.sleep(0.01)\n"
        "time.sleep(0.3); print('heard', len(heard))"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(supervisors.program(), ["init", "--init", "--", sys.executable, "-uc", script])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 100)
    os.write(terminal, b"\x03")
    while b"heard" not in said or not said.endswith(b"\n"):
        said += os.read(terminal, 100)
    assert b"heard 1" in said
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


def test_another_signal_goes_to_the_command_which_goes_on(tmp_path: Path) -> None:
    script = "trap ': >hup' HUP; : >ready; while ! [ -e hup ]; do sleep 0.1; done; echo heard"
    process = init("sh", "-c", script, directory=tmp_path)
    wait_until((tmp_path / "ready").exists, 20)
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (0, "heard\n", "")


def test_a_stop_during_the_pause_is_the_end(tmp_path: Path) -> None:
    process = init("sh", "-c", ": >ready; exit 3", directory=tmp_path)
    assert process.stderr is not None and "again in 1 s" in process.stderr.readline()
    assert "again in 2 s" in process.stderr.readline()
    process.terminate()
    assert process.wait(10) == 3


def test_what_comes_to_it_is_reaped(tmp_path: Path) -> None:
    script = "(sh -c 'echo $$ >pid' &); while ! [ -e go ]; do sleep 0.1; done"
    process = init("sh", "-c", script, directory=tmp_path)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: state_of(pid) == "", 20, "it is a zombie")
    (tmp_path / "go").touch()
    assert ended(process)[0] == 0


def test_the_command_has_none_of_its_signals_blocked(tmp_path: Path) -> None:
    script = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    assert ended(init(sys.executable, "-c", script, directory=tmp_path))[1] == "set()\n"


def test_without_a_command_it_says_how_it_is_used() -> None:
    for arguments in (["--init"], ["--init", "--"], ["--init", "sleep", "1"]):
        done = subprocess.run([supervisors.program(), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "--init -- COMMAND..." in done.stderr


def test_the_command_of_the_package_is_the_program() -> None:
    command = Path(sys.executable).parent / "disbatch-supervisor"
    own = subprocess.run([command, "--version"], capture_output=True, check=True).stdout
    assert own == subprocess.run([connection.program_path(), "--version"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_in_a_container_runs_outlive_a_node_that_is_killed(cluster: Cluster, require: Callable[[str], None]) -> None:
    require("unshare")
    space = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*space, "true"], capture_output=True, check=False).returncode != 0:
        skip_or_fail("no right to make a PID namespace")
    cluster.keep_runs()
    go = cluster.directory / "go"
    cluster.plugin("Hold", f"echo begun; while ! [ -e {go} ]; do sleep 0.1; done; echo done")
    (task_id,) = cluster.push(cluster.queue("Hold"), {})
    outer = cluster.start(through=(*space, str(supervisors.program()), "--init", "--"), pace=QUICK_TO_SEE)
    wait_until(lambda: "begun" in cluster.task(task_id).document.get("stdout", ""), 60, cluster.log())
    (first,) = children_of(outer.pid)
    node = next(pid for pid in children_of(first) if "python" in name_of(pid) or "disbatch-host" in name_of(pid))
    os.kill(node, signal.SIGKILL)
    wait_until(lambda: cluster.task(task_id).run.get("adopted"), 60, cluster.log())
    go.touch()
    task = cluster.wait_for_status(task_id, Status.CONCLUDED, within_seconds=60)
    assert task.document["stdout"] == "begun\ndone\n" and task.run["attempt"] == 1
    assert "ended with 137; it is started again in 1 s" in cluster.log()
    os.kill(first, signal.SIGTERM)
    assert outer.wait(60) == 0
