"""A bundle: everything about one task in one archive, for a bug report, or to run the same input again elsewhere.

Responsible for: what is in it, and reading the input out of one. Must not know: terminals, how a task is run.

In the archive (tar, gzip), below one directory named after the task:

    README.txt           what is what
    task.json            its document, without output; secrets masked
    input.json           {"class", "parameters", "masked"}: what `exec --bundle` runs; `masked` are JSON pointers
    story.json           its history, one event per element
    attempts/N/stdout, stderr    of each attempt whose output is still there; N-not-counted-K of one that was not
                         counted as attempt N, such as a snoozed one
    log.ndjson           what it logged
    plugin/plugin.json, files.json    its manifest, and the files beside it (size, mode, SHA-256), if it is here
    queue.json, node.json    as they are now
    here.json            the machine on which the bundle was made

Rules:
1. Secrets of parameters are masked; outputs and events are not, since a program may print anything. The person
   who makes a bundle is told.
2. Members come in one order, and their time is that of the task's last change: two bundles can be compared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from disbatch_host import __version__, suggested
from disbatch_host.client.history import history_of
from disbatch_host.client.masking import Masker
from disbatch_host.client.output import attempts_with_output, output_pieces
from disbatch_host.documents.records import Document, Task
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol.document import to_json
from disbatch_protocol.masks import MASK

if TYPE_CHECKING:
    from disbatch_host.plugin.catalog import Catalog, Plugin

INPUT_MAX = 64 * 2**20  # bytes of an input that is read from a bundle
FILES_MAX = 2000  # of a plugin, that are listed
_FILE_BYTES_MAX = 2**30  # of one file that is hashed
_EXPECTED = f"expected a bundle that {suggested.plain_hint('task bundle ID')} wrote"
_NOT_IN_NAMES = re.compile(r"[^\w.-]", re.ASCII)
_README = """\
Task {id}, as disbatch-host {version} saw it at {now}.

task.json        its document, without output. Secret parameters are masked.
input.json       what `disbatch-host exec --bundle FILE` runs again; masked values have to be given (-p name=value).
story.json       what happened to it, in order.
attempts/        stdout and stderr of each attempt whose output is still kept, and what it logged.
plugin/          the manifest, and the files of the plugin with their hashes, if it was on the machine of the bundle.
queue.json, node.json, here.json    the queue and the node as they are now, and the machine of the bundle.

Outputs and log entries are NOT masked: read them before you send this to anybody.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledInput:
    """The input of a task, as a bundle holds it."""

    class_name: str
    parameters: Any
    masked: tuple[str, ...]  # JSON pointers to the values that are not known


def input_of(store: Store, task: Task, catalog: Catalog | None) -> BundledInput:
    """The input of a task, with its secrets masked."""
    queue = next((one for one in store.queues() if one.id == task.queue), None)
    values = Masker(store, catalog).document(task)["parameters"]
    return BundledInput(
        class_name=_class_of(task) or ("" if queue is None else queue.class_name),
        parameters=values,
        masked=tuple(sorted(_places(values))),
    )


def filled(found: BundledInput, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an input, with others in place of some of them. Raises UsageError if a masked one is not given,
    since a mask must not be taken for the value."""
    if not isinstance(found.parameters, Mapping):
        raise UsageError("expected an input whose parameters are a JSON object, found others; it cannot be run again")
    names = {one.split("/")[1].replace("~1", "/").replace("~0", "~") for one in found.masked if "/" in one}
    if missing := sorted(names - given.keys()):
        words = " ".join(f"-p {shlex.quote(one)}=@FILE" for one in missing)
        raise UsageError(f"masked values are not known here: give {', '.join(missing)} ({words})")
    return {**found.parameters, **given}


def write_bundle(store: Store, task: Task, catalog: Catalog | None, out: IO[bytes]) -> None:
    """Write the bundle of a task to an open file."""
    at = _ended_at(task)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=at) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in _members(store, task, catalog):
            _add(archive, f"{bundle_name(task)}/{name}", content, at)


def bundle_name(task: Task) -> str:
    """Of its directory, and of its file without an ending: an id of another program may hold a slash, or anything."""
    return f"task-{_NOT_IN_NAMES.sub('_', str(task.id))}"


def _members(store: Store, task: Task, catalog: Catalog | None) -> Iterator[tuple[str, bytes | Iterator[bytes]]]:
    now = store.now()
    queue = next((one for one in store.queues() if one.id == task.queue), None)
    class_name = _class_of(task) or ("" if queue is None else queue.class_name)
    plugin = None if catalog is None else catalog.plugins.get(class_name)
    masked = Masker(store, catalog).document(task)
    yield "README.txt", _README.format(id=task.id, version=__version__, now=now.isoformat()).encode()
    document = {name: value for name, value in masked.items() if name not in ("stdout", "stderr")}
    yield "task.json", _json(store, document)
    found = input_of(store, task, catalog)
    yield "input.json", _json(store, {"class": class_name, "parameters": found.parameters, "masked": found.masked})
    yield "story.json", _json(store, [_event(one) for one in history_of(replace(task, document=masked))])
    yield from _attempts(store, task)
    if plugin is not None:
        yield from _plugin(store, plugin)
    if queue is not None:
        yield "queue.json", _json(store, queue.document)
    node = store.get_node(str(task.run.get("node") or task.node or ""))
    if node is not None:
        yield "node.json", _json(store, {**node.document, "age_seconds": node.age_seconds})
    yield "here.json", _json(store, _here())


def _attempts(store: Store, task: Task) -> Iterator[tuple[str, bytes | Iterator[bytes]]]:
    number = task.run.get("attempt")
    earlier = attempts_with_output(task)
    numbers = [one["attempt"] for one in earlier] + [number]
    for place, one in enumerate(earlier):
        # Attempts that were not counted have the number of the one that follows.
        again = numbers[place + 1 :].count(one["attempt"])
        name = f"{one['attempt']}-not-counted-{again}" if again else str(one["attempt"])
        for stream in ("stdout", "stderr"):
            yield f"attempts/{name}/{stream}", store.read_output(task.id, one["token"], stream)
    if isinstance(number, int):
        for stream in ("stdout", "stderr"):
            yield f"attempts/{number}/{stream}", output_pieces(store, task, stream)
    log = task.document.get("log")
    if isinstance(log, (list, tuple)) and log:
        yield "log.ndjson", b"".join(_json(store, entry, indented=False) for entry in log)


def _plugin(store: Store, plugin: Plugin) -> Iterator[tuple[str, bytes]]:
    try:
        yield "plugin/plugin.json", plugin.manifest_path.read_bytes()
    except OSError as error:
        yield "plugin/plugin.json.missing", str(error.strerror).encode()
    yield "plugin/files.json", _json(store, list(_files(plugin.manifest_path.parent)))


def _files(directory: Path) -> Iterator[Document]:
    """The files below a directory, without following links out of it."""
    count = 0
    for parent, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = Path(parent) / name
            count += 1
            if count > FILES_MAX:
                yield {"and": f"more than {FILES_MAX} files"}
                return
            try:
                yield _file(path, directory)
            except OSError as error:
                yield {"path": _shown(path.relative_to(directory)), "fault": error.strerror}


def _file(path: Path, directory: Path) -> Document:
    info = path.lstat()
    facts: Document = {"path": _shown(path.relative_to(directory)), "mode": oct(info.st_mode), "size": info.st_size}
    if path.is_symlink():
        return {**facts, "link": _shown(path.readlink())}
    if path.is_file() and info.st_size <= _FILE_BYTES_MAX:
        with path.open("rb") as file:
            facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _here() -> Document:
    system = os.uname()
    return {
        "disbatch_host": __version__,
        "python": platform.python_version(),
        "machine": system.nodename,
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "os": _os_release(),
    }


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _class_of(task: Task) -> str:
    ran = task.run.get("plugin")
    return str(ran.get("class") or "") if isinstance(ran, Mapping) else ""


def _event(event: Any) -> Document:
    fields = {name: value for name, value in asdict(event).items() if value not in (None, (), {})}
    return {**fields, "kind": str(event.kind)}


def _places(value: Any, pointer: str = "") -> Iterator[str]:
    """JSON pointers to masked values."""
    if value == MASK:
        yield pointer
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _places(one, f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from _places(one, f"{pointer}/{number}")


def _ended_at(task: Task) -> int:
    moment = task.document.get("mtime")
    return int(moment.timestamp()) if isinstance(moment, datetime) and moment.timestamp() > 0 else 0


def _json(store: Store, value: Any, *, indented: bool = True) -> bytes:
    plain = to_json(value, other=store.extended_json)
    return json.dumps(plain, ensure_ascii=False, indent=2 if indented else None).encode("utf-8", "replace") + b"\n"


def _add(archive: tarfile.TarFile, name: str, content: bytes | Iterator[bytes], at: int) -> None:
    """A member; a stream is gathered first, since its size comes before it."""
    data = content if isinstance(content, bytes) else b"".join(content)
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), at, 0o600
    archive.addfile(info, io.BytesIO(data))


def read_input(path: str) -> BundledInput:
    """The input in a bundle. Raises UsageError if the file is not one."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name.count("/") == 1 and member.name.endswith("/input.json"):
                    file = archive.extractfile(member)
                    if file is None or member.size > INPUT_MAX:
                        break
                    return _input_of(json.loads(file.read()), path)
    except OSError as error:
        raise UsageError(f"bundle {path} cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, ValueError, EOFError, RecursionError, gzip.BadGzipFile) as error:
        raise UsageError(f"{_EXPECTED}, found another file: {path}") from error
    raise UsageError(f"{_EXPECTED}, found no input in {path}")


def _input_of(value: Any, path: str) -> BundledInput:
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        raise UsageError(f"{_EXPECTED}, found another input in {path}")
    masked = value.get("masked")
    places = tuple(one for one in masked if isinstance(one, str)) if isinstance(masked, list) else ()
    return BundledInput(class_name=value["class"], parameters=value.get("parameters"), masked=places)
