"""Write a Disbatch plugin in Python: one function, run for each task, in oneshot and in worker mode.

    import disbatch_plugin

    def work(task):
        task.progress(0.5, "half of it")
        print("Hello,", task.parameters["name"])
        task.result({"greeted": task.parameters["name"]})

    disbatch_plugin.run(work)

What the function returns is the exit code, 0 to 255 (nothing: 0). An exception is a failure: its type and text
become the task's error (`KeyError: 'user'`), its traceback goes to stderr. Any other return value is a failure too, as
is an event that JSON cannot represent. Printed text becomes the task's output; invalid Unicode in an event (a file
name, say) becomes U+FFFD.

One file, nothing but the standard library, Python 3.7 and up: install it, or copy it beside your program. Run by hand,
without a host, the plugin reads one line of JSON from stdin and shows its events on stderr.
"""

import json
import os
import re
import sys
import traceback

__version__ = "0.1.0"
__all__ = ["Task", "run"]

_PROTOCOL = 1


def run(work):
    """Call `work(task)` for the task (oneshot mode) or for each task in turn (worker mode), then end the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the task's output is UTF-8, whatever the locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    events = _Events()
    if os.environ.get("DISBATCH_MODE") == "worker":
        _serve(work, events)
        sys.exit(0)
    document = json.loads(sys.stdin.buffer.readline() or b"{}")
    deadline = os.environ.get("DISBATCH_DEADLINE")
    attempt = int(os.environ.get("DISBATCH_ATTEMPT", "1"))
    sys.exit(_perform(work, Task(document, events, attempt, float(deadline) if deadline else None)))


class Task:
    """The current task, with methods for its events. All of them are optional."""

    def __init__(self, document, events, attempt, deadline):
        self._events = events
        self.document = document  # everything from the host; see the plugin protocol
        self.attempt = attempt  # 1 for the first attempt
        self.deadline = deadline  # in Unix seconds, None without a time limit

    @property
    def id(self):
        return self.document.get("_id")

    @property
    def queue(self):
        return self.document.get("queue")

    @property
    def parameters(self):
        return self.document.get("parameters", {})

    def progress(self, value=None, message=None):
        """Report progress: `value` from 0 to 1, or None; `message` for people."""
        self._say("progress", value=value, message=_text(message))

    def log(self, message, level="info", **fields):
        """Add a line to the task's log. `level`: debug, info, warning or error."""
        self._say("log", level=level, message=str(message), fields=fields or None)

    def status(self, status):
        """Fail with this status (2 and up), even with exit code 0; 0 takes it back."""
        self._say("status", status=status)

    def set(self, **fields):
        """Set free fields of the task document."""
        self._say("set", fields=fields)

    def result(self, value, status=None):
        """Give the task's result, as JSON of at most 1 MiB; the last one counts. With `status`, fail with it."""
        event = {"type": "result", "value": value}
        if status is not None:
            event["status"] = status
        self._events.send(event)

    def error(self, message, code=None, detail=None, retry=None):
        """Give the reason for a failure. `retry`: whether another attempt makes sense. Fails even with exit code 0."""
        self._say("error", code=_text(code), message=str(message), detail=_text(detail), retry=retry)

    def snooze(self, seconds, message=None):
        """With exit code 0: run again in this many seconds, without using an attempt."""
        self._say("snooze", seconds=seconds, message=_text(message))

    def follow_up(self, *tasks):
        """Create tasks once this one has succeeded: {"queue": …, "parameters": {…}} each."""
        self._say("tasks", tasks=list(tasks))

    def _say(self, kind, **fields):
        self._events.send({"type": kind, **{name: value for name, value in fields.items() if value is not None}})


def _text(value):
    return None if value is None else str(value)


class _Events:
    def __init__(self):
        descriptor = os.environ.get("DISBATCH_EVENT_FD")
        self._descriptor = int(descriptor) if descriptor else None

    def send(self, event):
        try:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError("the {} event cannot be written as JSON: {}".format(event["type"], error)) from error
        # Bytes of a file name that are not valid UTF-8 are lone surrogates in Python, which JSON cannot represent.
        line = re.sub("[\ud800-\udfff]", "\ufffd", line)
        if self._descriptor is None:
            sys.stderr.write("event: " + line + "\n")
            return
        rest = memoryview(line.encode("utf-8") + b"\n")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def _serve(work, events):
    lines = sys.stdin.buffer
    json.loads(lines.readline() or b"null")  # hello
    events.send({"type": "ready", "protocol": _PROTOCOL})
    for line in lines:
        message = json.loads(line)
        if message.get("type") != "task":
            continue  # from a later version of the protocol
        task = Task(message["task"], events, message.get("attempt", 1), message.get("deadline"))
        code = _perform(work, task)
        events.send({"type": "done", "exit": code, "task": task.id})


def _perform(work, task):
    try:
        code = _exit_code(work, task)
    except Exception as error:  # whatever it is, it concerns only this task
        traceback.print_exc()
        task.error(_in_words(error), code="exception")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _in_words(error):
    """As the last line of a traceback: the text alone says little, for a KeyError it is only the key."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception:  # a class of the plugin's own whose __str__ fails must not end the other tasks of a worker
        text = ""
    return f"{name}: {text}" if text else name


def _exit_code(work, task):
    try:
        code = work(task)
    except SystemExit as end:
        code = int(end.code) if isinstance(end.code, bool) else end.code
        if code is not None and not isinstance(code, int):  # sys.exit("why")
            print(code, file=sys.stderr)
            return 1
    if code is None:
        return 0
    if isinstance(code, int) and not isinstance(code, bool) and 0 <= code <= 255:
        return int(code)
    raise ValueError(f"expected the function to return an exit code from 0 to 255 or nothing, found {code!r:.100}")
