"""The URL of a store in the form that people and logs may see: never a password, never a secret option.

Responsible for: being the one place that decides what of a URL may be shown, however it was mistyped; a file's URL; and
other texts without the secrets of a URL. Must not know: which stores there are beyond their schemes.

Rules:
1. A part is shown because it is known to be harmless, never because no secret was recognized in it. Everything else is
   `***`: in a URL that does not have its form, nobody can say which part is which.
2. A user is shown only beside a password: alone, it may be one.
3. A host without an @ before it is shown only if all ports are numbers: `user:password` looks like `host:port`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

HIDDEN = "***"

_SCHEMES = ("sqlite", "mongodb", "mongodb+srv", "mongo", "mysql", "mariadb", "postgres", "postgresql", "redis", "file",
            "http", "https", "amqp")  # fmt: skip
# Patterns are compiled when they are used: most commands need none of them.
_HOST = r"(?:\[[\w:.%]+\]|[\w.%-]+)"
_DATABASE = r"(?:/[\w.%-]*)?"
_HOSTS_ALONE = rf"{_HOST}(?::\d{{1,5}})?(?:,{_HOST}(?::\d{{1,5}})?)*{_DATABASE}"  # rule 3
_HOSTS_AFTER_USER = rf"{_HOST}(?::\w*)?(?:,{_HOST}(?::\w*)?)*{_DATABASE}"
_USER = r"[\w.%+~-]+"
_FILE = r"(?:sqlite:|file:)?[\w./~ +,-]+"
# Options of a MongoDB URI. A secret one is named, whatever the next version of the driver adds; others are shown whole.
_SECRET_OPTION = r"(?i)[A-Z]*(?:password|token|secret|key)[A-Z]*|authMechanismProperties"
_OPTION_VALUE = r"[\w.,:+/-]*"
_OPTIONS = frozenset(
    {
        "appname", "authmechanism", "authsource", "compressors", "connecttimeoutms", "directconnection",
        "heartbeatfrequencyms", "journal", "loadbalanced", "localthresholdms", "maxidletimems", "maxpoolsize",
        "maxstalenessseconds", "minpoolsize", "readconcernlevel", "readpreference", "replicaset", "retryreads",
        "retrywrites", "serverselectiontimeoutms", "sockettimeoutms", "ssl", "tls", "tlsallowinvalidcertificates",
        "tlsallowinvalidhostnames", "tlscafile", "tlsinsecure", "uuidrepresentation", "w", "waitqueuetimeoutms",
        "wtimeoutms", "zlibcompressionlevel",
    }
)  # fmt: skip
_DELIMITERS = r"[:/@?&=,;#]+"
_SHORT = 4  # letters: a shorter secret is hidden only where it stands alone, else it would be found in any word
# A word that may be a URL, or a part of one, with a password in it.
_SUSPECT = r"[^\s'\"`]*(?:://|:[^\s'\"`]*@)[^\s'\"`]*[^\s'\"`.,;:!?)]"


def redact(url: str) -> str:
    """The URL for people and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _without_scheme(url)
    if not _is_scheme(scheme.lower()):
        return f"{HIDDEN}://{HIDDEN}"
    if scheme.lower() in ("sqlite", "file"):
        is_path = "@" not in rest and (rest.startswith("/") or ":" not in rest)
        return url if is_path else f"{scheme}://{HIDDEN}"
    return f"{scheme}://{_server(rest)}"


def sqlite_url(path: os.PathLike[str]) -> str:
    """The URL of a SQLite file."""
    return "sqlite://" + re.sub(
        r"%(?=[0-9A-Fa-f]{2})|[#?@\x00-\x1f\x7f\ud800-\udfff]",
        lambda match: "".join([f"%{byte:02X}" for byte in os.fsencode(match[0])]),
        os.fspath(path),
    )


def without_secrets(text: str, url: str) -> str:
    """Somebody else's words about a URL without anything that `redact` hides: as written, decoded, or escaped as in
    JSON and in Python."""
    secrets = {form for secret in _secrets(url) for form in (secret, json.dumps(secret)[1:-1], ascii(secret)[1:-1])}
    for secret in sorted(secrets, key=len, reverse=True):
        pattern = re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return text


def without_passwords(text: str, urls: Iterable[str] = ()) -> str:
    """Any text without the secrets of these URLs, and without the passwords of everything in it that looks like one."""
    for url in urls:
        text = without_secrets(text, url)
    return re.sub(_SUSPECT, lambda match: redact(match[0]), text)


def _is_scheme(scheme: str) -> bool:
    """Whether it is a scheme, perhaps with a typing mistake: nothing else may be shown before ://."""
    if scheme in _SCHEMES:
        return True
    import difflib  # noqa: PLC0415  (only for a mistake)

    return bool(difflib.get_close_matches(scheme, _SCHEMES, n=1, cutoff=0.75))


def _without_scheme(url: str) -> str:
    _, at, after = url.rpartition("@")
    if at:
        return f"{HIDDEN}@{after}" if re.fullmatch(_HOSTS_AFTER_USER, after) else HIDDEN
    if url in _SCHEMES or not url:
        return url
    return url if re.fullmatch(_FILE, url) and not url.lower().startswith("mong") else HIDDEN


def _server(rest: str) -> str:
    """The part of a server's URL after its scheme."""
    place, question_mark, options = rest.partition("?")
    credentials, at, hosts = place.rpartition("@")
    if at and "@" in options:  # what follows either may be the hosts, or a part of a secret
        return HIDDEN
    if at and re.fullmatch(_HOSTS_AFTER_USER, hosts):
        return f"{_user(credentials)}@{hosts}{_options(question_mark, options)}"
    if not at and "@" not in rest:
        shown = place if re.fullmatch(_HOSTS_ALONE, place) or not place else None
        return HIDDEN if shown is None else f"{shown}{_options(question_mark, options)}"
    # The last @ ends the credentials: a password may hold an unescaped one, or a question mark.
    credentials, _, place = rest.rpartition("@")
    hosts, question_mark, options = place.partition("?")
    if ":" in credentials.partition("?")[0] and re.fullmatch(_HOSTS_AFTER_USER, hosts):
        return f"{_user(credentials)}@{hosts}{_options(question_mark, options)}"
    return HIDDEN


def _user(credentials: str) -> str:
    user, colon, _ = credentials.partition(":")
    return f"{user}:{HIDDEN}" if colon and re.fullmatch(_USER, user) else HIDDEN


def _options(question_mark: str, options: str) -> str:
    return question_mark + "&".join([_option(one) for one in re.split("[&;]", options)]) if question_mark else ""


def _option(option: str) -> str:
    name, is_equal, value = option.partition("=")
    if re.fullmatch(_SECRET_OPTION, name) and is_equal:
        return f"{name}={HIDDEN}"
    if name.lower() in _OPTIONS and re.fullmatch(_OPTION_VALUE, value):
        return option
    return HIDDEN if option else ""


def _secrets(url: str) -> Iterator[str]:
    """The pieces of a URL that are not shown, as written, decoded, and as a `repr` has them."""
    shown = set(re.split(_DELIMITERS, redact(url)))
    _, _, rest = url.partition("://")
    credentials = (rest or url).rpartition("@")[0]
    pieces = {*re.split(_DELIMITERS, url), credentials, credentials.partition(":")[2]}
    pieces |= {option.partition("=")[2] for option in re.split("[?&;]", rest)}
    for piece in pieces:
        if piece and piece not in shown and piece != HIDDEN:
            yield from {piece, unquote(piece), repr(piece)[1:-1], repr(unquote(piece))[1:-1]}
