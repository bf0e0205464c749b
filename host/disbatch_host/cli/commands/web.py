"""`disbatch-host web`: the page and the REST API; and the tokens that people sign in with."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from disbatch_host import logs, suggested
from disbatch_host.cli import common, render
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.cli.kinds import OneOf
from disbatch_host.client import Client
from disbatch_host.errors import FieldError, UsageError
from disbatch_host.settings.forms import Address, parse_address
from disbatch_host.settings.web_table import DEFAULT_LISTEN, DEFAULT_UPLOAD_MAX, ROLES, WEB_SETTINGS
from disbatch_protocol.quantities import parse_duration, parse_size

if TYPE_CHECKING:
    from disbatch_host.web.identity import Proxy
    from disbatch_host.web.running import WebSettings
    from disbatch_host.web.tokens import TokenFile

_SOCKET = "unix:"
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_TOKENS = click.option("--tokens", metavar="FILE", help="The file of tokens (/etc/disbatch/web.json, where it exists).")


class _Web(Subcommands):
    """A server where no subcommand is named."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **{**more, "invoke_without_command": True})


def _web_options(command: Any) -> Any:
    """The options of the table, in its order."""
    for one in reversed(WEB_SETTINGS):
        kind = {"type": OneOf(one.choices)} if one.choices else {"is_flag": True} if one.is_flag else {}
        given: dict[str, Any] = {**kind, "metavar": one.metavar, "multiple": one.is_list, "help": one.help}
        command = click.option(one.option, one.name, **given)(command)
    return command


@click.group(cls=_Web)
@_web_options
@click.option("--log-level", type=OneOf(("debug", "info", "warning", "error")), help="From which level on (info).")
@click.option("--log-format", type=OneOf(("text", "json")), help="Lines of text, or JSON objects (text).")
@common_options
@click.pass_context
def web(context: click.Context, /, **given: Any) -> None:
    """Serve the page and the REST API, on the store of the commands. It runs until it gets SIGTERM.

    \b
      disbatch-host web
      disbatch-host web token add ann --role operate
      disbatch-host web --listen :8780 --tokens /etc/disbatch/web.json --public-url https://jobs.example.org

    Without a file of tokens it prints the address with a token that works until it ends, once.
    """
    if context.invoked_subcommand is not None:
        return
    if common.wants_json():
        raise UsageError("--json is for commands that read, not for running a server")
    settings = _settings(_merged(given))
    logs.set_up(given["log_level"] or "info", given["log_format"] or "text", node_id="web")
    from disbatch_host.web import running  # noqa: PLC0415  (only a server needs it)

    with suggested.for_others():  # who reads it may sit anywhere
        running.run(settings, _open_client, click.echo)


def _open_client() -> Client:
    settings = common.settings()
    return Client.open(
        settings.store_url, plugins=settings.plugins if settings.are_plugins_given else (), by="web",
        creates=not settings.is_store_given,
    )  # fmt: skip


def _merged(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options, and for those that were not given what the configuration file says."""
    file = common.settings().web
    found: dict[str, Any] = {}
    for one in WEB_SETTINGS:
        value = given[one.name]
        value = file.get(one.name) if value in (None, (), False) else value
        found[one.name] = ((value,) if isinstance(value, str) else tuple(value or ())) if one.is_list else value
    return found


def _settings(given: dict[str, Any]) -> WebSettings:
    _require_extra()
    from disbatch_host.web.guard import Place  # noqa: PLC0415
    from disbatch_host.web.running import WebSettings  # noqa: PLC0415

    place = Place(
        base_path=_base_path(given["base_path"]),
        public_urls=_urls("--public-url", given["public_url"]),
        cors_origins=_urls("--cors-origin", given["cors_origin"]),
    )
    file = _token_file(given["tokens"])
    return WebSettings(
        listen=_listen(given["listen"] or DEFAULT_LISTEN),
        place=place,
        tokens=file if given["tokens"] is not None or file.path.exists() else None,
        needs_sign_in=not given["no_auth"],
        proxy=_proxy(given),
        spool=_spool(given["spool"]),
        upload_max=_upload_max(given["upload_max"]),
        time_zone=given["time_zone"] or "local",
    )


def _spool(given: str | None) -> Path | None:
    """None: there is no place for one."""
    if given is not None:
        return Path(given)
    state = common.settings().node.state_directory
    return None if state is None else state / "web"


def _upload_max(given: str | int | None) -> int:
    try:
        return parse_size(DEFAULT_UPLOAD_MAX if given is None else given)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--upload-max: {error}") from error


def _require_extra() -> None:
    try:
        import jinja2  # noqa: F401, PLC0415
        import python_multipart  # noqa: F401, PLC0415
        import starlette  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError(
            "disbatch-host web needs its extra: pip install 'disbatch-host[web]' (in a checkout `.venv/bin/pip install "
            "'.[web]'`)"
        ) from error


def _listen(text: str) -> Address | Path:
    if text.startswith(_SOCKET):
        path = Path(text.removeprefix(_SOCKET))
        if not path.is_absolute():
            raise UsageError(f"--listen: expected unix: and an absolute path, found {text!r:.200}")
        return path
    return parse_address("listen", text)


def _base_path(text: str | None) -> str:
    if text in (None, "", "/"):
        return ""
    assert text is not None
    if not text.startswith("/") or "//" in text or not text.isascii() or any(one in text for one in "?#%\\ "):
        raise UsageError(f"--base-path: expected a path like /disbatch, found {text!r:.200}")
    return text.rstrip("/")


def _urls(option: str, texts: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        found = urlsplit(text)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise UsageError(f"{option}: expected a URL like https://jobs.example.org, found {text!r:.200}")
    return tuple(text.rstrip("/") for text in texts)


def _proxy(given: dict[str, Any]) -> Proxy | None:
    name, peers = given["proxy_user_header"], given["proxy_from"]
    more = [one for one in ("proxy_role", "proxy_group", "proxy_groups_header", "proxy_secret") if given[one]]
    if name is None and not peers and not more:
        return None
    if name is None or not peers:
        raise UsageError("expected --proxy-user-header and --proxy-from together: any peer could send the header")
    if bool(given["proxy_group"]) != bool(given["proxy_groups_header"]):
        raise UsageError("expected --proxy-group and --proxy-groups-header together")
    from disbatch_host.web.identity import Proxy  # noqa: PLC0415
    from disbatch_host.web.role import Role  # noqa: PLC0415

    role = given["proxy_role"] or (None if given["proxy_group"] else "read")
    return Proxy(
        header=_header("--proxy-user-header", name),
        networks=[_network(one) for one in peers if one != "unix"],
        is_local="unix" in peers,
        secret=_secret_in(given["proxy_secret"]),
        role=None if role is None else Role[role.upper()],
        groups_header=given["proxy_groups_header"] and _header("--proxy-groups-header", given["proxy_groups_header"]),
        groups={group: Role[word.upper()] for group, word in map(_group, given["proxy_group"])},
    )


def _header(option: str, name: str) -> str:
    if _HEADER.fullmatch(name) is None:
        raise UsageError(f"{option}: expected the name of a header, found {name!r:.100}")
    return name.lower()


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"--proxy-from: expected a network like 127.0.0.1/32, or unix, found {text!r:.80}") from error


def _group(text: str) -> tuple[str, str]:
    group, _, role = text.rpartition("=")
    if not group or role not in ROLES:
        raise UsageError(f"--proxy-group: expected a group and its role, such as ops=operate, found {text!r:.100}")
    return group, role


def _secret_in(path: str | None) -> str | None:
    if path is None:
        return None
    from disbatch_host.web.tokens import require_private  # noqa: PLC0415

    try:
        with Path(path).open() as file:
            require_private(Path(path), os.fstat(file.fileno()))
            found = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--proxy-secret: {path} cannot be read: {error}") from error
    if not found:
        raise UsageError(f"--proxy-secret: {path} is empty")
    return found


def _token_file(path: str | None) -> TokenFile:
    from disbatch_host.web.tokens import DEFAULT_FILE, TokenFile  # noqa: PLC0415

    named = path if path is not None else common.settings().web.get("tokens")
    return TokenFile(DEFAULT_FILE if named is None else Path(named))


@web.group(cls=Subcommands)
@common_options
def token() -> None:
    """Make, list and remove the tokens that people and programs sign in with."""


@token.command()
@click.argument("name")
@click.option("--role", type=OneOf(ROLES), default="read", show_default=True, help="What its owner may do.")
@click.option("--queue", "queues", multiple=True, metavar="Q", help="It shows this queue alone; several may be named.")
@click.option("--expires", metavar="DURATION", help="How long it works, such as 90d; else until it is removed.")
@_TOKENS
@common_options
def add(name: str, role: str, queues: Sequence[str], expires: str | None, tokens: str | None) -> None:
    """Make a token, and print it, once.

    \b
      disbatch-host web token add ann --role operate --expires 90d
      disbatch-host web token add nagios --queue mail
    """
    from disbatch_host.web.role import Role  # noqa: PLC0415
    from disbatch_host.web.tokens import new_token  # noqa: PLC0415

    now = datetime.now(UTC)
    try:
        until = None if expires is None else now + timedelta(seconds=parse_duration(expires))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--expires: {error}") from error
    try:
        made, text = new_token(name, Role[role.upper()], queues=queues, now=now, expires=until)
    except FieldError as error:
        raise UsageError(f"NAME: {error.reason}") from error
    file = _token_file(tokens)
    file.add(made)
    if common.wants_json():
        render.print_json({**made.to_json(), "token": text})
        return
    click.echo(text)
    click.echo(f"token {made.id} of {name} is in {file.path}; it is not shown again", err=True)


@token.command("list")
@_TOKENS
@common_options
def list_(tokens: str | None) -> None:
    """List the tokens, without themselves.

    \b
      disbatch-host web token list
    """
    found = _token_file(tokens).current().tokens
    if common.wants_json():
        for one in found:
            render.print_json(one.to_json())
        return
    now = datetime.now(UTC)
    rows = [
        (one.id, one.name, one.role.word, ", ".join(one.queues) or "all", _until(one.expires, now)) for one in found
    ]
    if rows:
        render.print_table(("id", "name", "role", "queues", "expires"), rows)


def _until(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    return "expired" if moment <= now else render.age(moment, now)


@token.command()
@click.argument("token")
@_TOKENS
@common_options
def remove(token: str, tokens: str | None) -> None:
    """Remove a token by its id, or all of a name; sessions that began with it end at once.

    \b
      disbatch-host web token remove k3v9xw
      disbatch-host web token remove ann
    """
    gone = _token_file(tokens).remove(token)
    if common.wants_json():
        for one in gone:
            render.print_json(one.to_json())
        return
    click.echo(f"removed {common.count_of(len(gone), 'token')}: {', '.join(f'{one.id} of {one.name}' for one in gone)}")
