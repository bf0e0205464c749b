"""The text forms of settings: node ids, addresses, durations.

Responsible for: reading such a text, or saying what is wrong with it. Must not know: where it was given.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from disbatch_host.errors import UsageError
from disbatch_host.settings.table import Setting
from disbatch_protocol.quantities import parse_duration

NODE_ID_PATTERN = re.compile(r"[a-zA-Z][a-zA-Z_0-9]{0,7}", re.ASCII)  # den-1.0: 1 to 8 characters
PORT_MAX = 65535


class Address(NamedTuple):
    """Where to listen. An empty host: every address of this machine; port 0: any that is free."""

    host: str
    port: int


def check_node_id(node_id: str) -> str:
    """The id, if it is one. Raises UsageError."""
    if NODE_ID_PATTERN.fullmatch(node_id) is None:
        raise UsageError(
            f"expected a node id of 1 to 8 characters ([a-zA-Z][a-zA-Z_0-9]*), found {node_id!r}; "
            f"{make_node_id(node_id)!r} would be one"
        )
    return node_id


def make_node_id(host_name: str) -> str:
    """A node id from a host name: its first label without the characters that cannot stand in an id. Of a longer one,
    the first characters and all final digits, because those tell machines apart (`mailserver042` → `mails042`)."""
    label = re.sub(r"[^a-zA-Z0-9_]", "", host_name.partition(".")[0], flags=re.ASCII)
    label = label if label[:1].isalpha() else f"n{label}"
    if len(label) <= 8:
        return label
    match = re.search(r"\d{1,7}\Z", label)
    digits = match[0] if match else ""
    return label[: 8 - len(digits)] + digits


def parse_address(name: str, text: str) -> Address:
    """`127.0.0.1:9100`, `[::1]:9100`, `:9100` for every address of this machine. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = is_bracketed or not (":" in host or any(one.isspace() or one in "[]/@" for one in host))
    if not colon or not is_host or not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise UsageError(
            f"--{name}: expected an address and a port like 127.0.0.1:9100, [::1]:9100 or :9100, found {text!r:.80}"
        )
    return Address(host[1:-1] if is_bracketed else host, int(port))


def lacks_unit(text: str) -> bool:
    """Whether it is a bare number, which leaves open how long a duration it means."""
    return _BARE_NUMBER.fullmatch(text.strip()) is not None


_BARE_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_seconds(setting: Setting, value: Any) -> float:
    """Seconds, or a duration like `90s`. Raises UsageError."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise UsageError(f"{setting.option}: {error}") from error
    if seconds == 0 and not setting.zero_is_fine:
        raise UsageError(f"{setting.option}: expected more than 0 seconds")
    return seconds
