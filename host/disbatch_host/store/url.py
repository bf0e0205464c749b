"""The URL of a store in the form that people and logs may see: never a password, never a secret option."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Options of a MongoDB URI that hold a secret, whatever the next version of the driver adds.
_SECRET_OPTION = re.compile(
    r"([?&;])([^=&;?]*(?:password|token|secret|key)[^=&;?]*|authMechanismProperties)=([^&;]*)", re.IGNORECASE
)


def redact(url: str) -> str:
    """The URL without password and without secret options, for people and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:  # nobody can say which part is which
        before, at, rest = url.rpartition("@")
        return _without_options(f"***@{rest}" if at else before + rest)
    option = _SECRET_OPTION.search(rest)
    # The last @ before the options ends the credentials: a password may hold an unescaped one, or a slash.
    end = len(rest) if option is None or "@" not in rest[: option.start()] else option.start()
    credentials, at, host = rest[:end].rpartition("@")
    if at and _SECRET_OPTION.search(credentials) and ":" not in credentials.partition("?")[0]:
        return f"{scheme}://***"  # an @ in an option, or in a password that looks like one
    user, colon, _ = credentials.partition(":")
    return _without_options(f"{scheme}://{user}{':***' if colon else ''}{at}{host}{rest[end:]}")


def without_secrets(text: str, url: str) -> str:
    """A driver's words about a URL, without the secrets in it, as written or decoded."""
    _, _, rest = url.partition("://")
    found = [match[3] for match in _SECRET_OPTION.finditer(rest)]
    credentials, at, _ = rest.rpartition("@")
    if at:
        found.append(credentials.partition(":")[2])
    found += [unquote(secret) for secret in found]
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _without_options(url: str) -> str:
    return _SECRET_OPTION.sub(r"\1\2=***", url)
