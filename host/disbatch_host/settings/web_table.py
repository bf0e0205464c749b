"""The settings of `disbatch-host web`: its options, and the keys below `web` in the configuration file.

Responsible for: which there are, and what the file may hold. Must not know: what they are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSetting:
    """One row of the table. In the file, one that may be given several times is a text or a list of texts."""

    name: str  # with _; the option is written with -, the key of the file either way
    help: str
    metavar: str | None = None
    is_flag: bool = False
    is_list: bool = False
    choices: tuple[str, ...] = ()
    takes_number: bool = False  # in the file, besides a text

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def schema(self) -> Mapping[str, Any]:
        """Of its value in the file."""
        if self.is_flag:
            return {"description": self.help, "type": "boolean", "x-expected": "true or false"}
        if self.choices:
            expected = " or ".join(f'"{one}"' for one in self.choices)
            return {"description": self.help, "enum": list(self.choices), "x-expected": expected}
        if self.is_list:
            items = {"type": "string", "x-expected": "a text"}
            expected = "a text or a list of texts"
            return {"description": self.help, "type": ["string", "array"], "items": items, "x-expected": expected}
        if self.takes_number:
            kinds, expected = ["integer", "string"], 'a number of bytes or a size like "1G"'
            return {"description": self.help, "type": kinds, "x-expected": expected}
        return {"description": self.help, "type": "string", "x-expected": "a text"}


DEFAULT_LISTEN = "127.0.0.1:8780"
DEFAULT_UPLOAD_MAX = "1G"
ROLES = ("read", "operate", "admin")
WEB_SETTINGS: tuple[WebSetting, ...] = (
    WebSetting(name="listen", metavar="ADDR:PORT|unix:PATH", help=f"Where to listen ({DEFAULT_LISTEN})."),
    WebSetting(name="base_path", metavar="PATH", help="Below which path a proxy serves it, such as /disbatch."),
    WebSetting(name="public_url", metavar="URL", is_list=True, help="How browsers reach it."),
    WebSetting(name="tokens", metavar="FILE", help="The file of tokens (/etc/disbatch/web.json, where it exists)."),
    WebSetting(
        name="no_auth", is_flag=True, help="Nobody needs to sign in: on a loopback address or a Unix socket only."
    ),
    WebSetting(name="proxy_user_header", metavar="NAME", help="A header by which a proxy says who has signed in."),
    WebSetting(
        name="proxy_from", metavar="NET|unix", is_list=True, help="From where that header is taken: 127.0.0.1/32."
    ),
    WebSetting(name="proxy_role", choices=ROLES, help="What those may do (read; with --proxy-group, nothing)."),
    WebSetting(
        name="proxy_group", metavar="GROUP=ROLE", is_list=True, help="What members of a group may do; the most counts."
    ),
    WebSetting(
        name="proxy_groups_header",
        metavar="NAME",
        help="Where the proxy says in which groups somebody is, with commas.",
    ),
    WebSetting(
        name="proxy_secret", metavar="FILE", help="What is in this file has to come with them, in X-Disbatch-Secret."
    ),
    WebSetting(name="cors_origin", metavar="URL", is_list=True, help="Pages that may read with a token."),
    WebSetting(name="spool", metavar="DIR", help="Where files to be imported are kept (in the state directory)."),
    WebSetting(
        name="upload_max", metavar="SIZE", takes_number=True, help=f"The largest such file ({DEFAULT_UPLOAD_MAX})."
    ),
    WebSetting(name="time_zone", choices=("local", "utc"), help="Of the times that pages show (local)."),
)


def schema() -> Mapping[str, Any]:
    """Of the key `web` in the file."""
    return {
        "description": "The settings of `disbatch-host web`: its options as keys.",
        "type": "object",
        "x-expected": "a JSON object",
        "additionalProperties": False,
        "properties": {one.name: one.schema for one in WEB_SETTINGS},
    }
