#!/usr/bin/env python3
"""Posts a message as JSON to a URL: what came of a batch, or any text.

Exit 4: the server refuses the message, and would refuse it again. Exit 75: it cannot be reached, or is busy.
Neither the URL nor the token is printed: both may be secrets.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

REFUSED = 4
TRY_AGAIN = 75
BUSY = (408, 425, 429)  # of the 4xx, those that pass
LEFT_OUT = {
    "skipped": "rows skipped, since they did not fit",
    "existing": "rows left out, since the same was waiting or running already",
}
SAID_MAX = 300  # characters of an answer
TOLD = (
    "batch", "total", "created", "existing", "skipped", "concluded", "failed", "cancelled", "orphaned", "seconds",
    "causes",
)  # fmt: skip


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another place must not get the token, and a POST would become a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


def main() -> int:
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    parameters = json.loads(sys.stdin.buffer.readline())["parameters"]
    told = {name: parameters[name] for name in TOLD if name in parameters}
    text = filled(parameters["text"], told) if "text" in parameters else summary(told)
    body = json.dumps({**told, parameters.get("field", "text"): text}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "disbatch-host"}
    if "token" in parameters:
        headers["Authorization"] = f"Bearer {parameters['token']}"
    host = urlsplit(parameters["url"]).hostname or "the server"
    try:
        request = urllib.request.Request(parameters["url"], body, headers, method="POST")
        with urllib.request.build_opener(NoRedirect).open(request, timeout=parameters.get("wait", 30)) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        said = error.read(SAID_MAX).decode("utf-8", "replace").strip()
        is_busy = error.code >= 500 or error.code in BUSY
        return fail(f"http_{error.code}", f"{host} answers {error.code} {error.reason}: {said}", is_busy=is_busy)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        return fail("unreachable", f"{host} cannot be reached: {reason}", is_busy=True)
    except ValueError as error:  # a URL or a token with characters that no request can hold
        return fail("invalid", f"the request cannot be made: {type(error).__name__}", is_busy=False)
    print(f"{host} took it ({status}): {text}")
    send({"type": "result", "value": {"status": status}})
    return 0


def summary(told: dict[str, Any]) -> str:
    """One line: batch, counts, and the most frequent causes."""
    if "total" not in told:
        return "a message from disbatch-host without a text"
    others = "".join(f", {told[name]} {name}" for name in ("failed", "cancelled", "orphaned") if told.get(name))
    causes = causes_in_words(told)
    because = f" ({causes})" if causes else ""
    left_out = "".join(f"; {told[name]} {words}" for name, words in LEFT_OUT.items() if told.get(name))
    return (
        f"batch {told.get('batch', '')} is done after {told.get('seconds', 0):.0f} s: {told['total']} tasks, "
        f"{told.get('concluded', 0)} concluded{others}{because}{left_out}"
    )


def causes_in_words(told: dict[str, Any], most: int = 5) -> str:
    return ", ".join(f"{one.get('count')} x {one.get('text')}" for one in told.get("causes", ())[:most])


def filled(text: str, told: dict[str, Any]) -> str:
    """The text with {batch} and so on replaced; any other brace stays as it is."""
    for name in TOLD:
        value = causes_in_words(told) if name == "causes" else told.get(name, "")
        text = text.replace(f"{{{name}}}", str(value))
    return text


def fail(code: str, message: str, *, is_busy: bool) -> int:
    send({"type": "error", "code": code, "message": message})
    print(f"webhook: {message}", file=sys.stderr)
    return TRY_AGAIN if is_busy else REFUSED


def send(event: dict[str, Any]) -> None:
    """Give the host an event; nothing if it is run by hand."""
    number: str | None = os.environ.get("DISBATCH_EVENT_FD")
    if number is not None:
        os.write(int(number), json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
