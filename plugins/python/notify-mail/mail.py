#!/usr/bin/env python3
"""Sends a mail: what came of a batch, or any text.

Exit 4: the server refuses it, and would refuse it again, or it is not known whether it was sent. Exit 75: the server
cannot be reached, or is busy; nothing was sent then.
"""

from __future__ import annotations

import contextlib
import json
import os
import smtplib
import socket
import ssl
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

REFUSED = 4
TRY_AGAIN = 75
PORTS = {"none": 25, "starttls": 587, "tls": 465}
TOLD = (
    "batch", "total", "created", "existing", "skipped", "concluded", "failed", "cancelled", "orphaned", "seconds",
    "causes",
)  # fmt: skip


def main() -> int:
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    parameters = json.loads(sys.stdin.buffer.readline())["parameters"]
    host, security = parameters.get("host", "localhost"), parameters.get("security", "none")
    port = parameters.get("port", PORTS[security])
    to = parameters["to"] if isinstance(parameters["to"], list) else [parameters["to"]]
    try:
        message = message_of(parameters, to)
    except ValueError as error:  # a line end in an address or in the subject
        return fail("invalid", f"the mail cannot be made: {error}", is_busy=False)
    server, is_sending = None, False
    try:
        server = connected(host, port, security, parameters.get("wait", 30))
        if "user" in parameters:
            server.login(parameters["user"], parameters["password"])
        is_sending = True
        refused = server.send_message(message, to_addrs=to)
    except smtplib.SMTPRecipientsRefused as error:
        words = ", ".join(f"{one}: {code} {text_of(said)}" for one, (code, said) in error.recipients.items())
        is_busy = all(400 <= code < 500 for code, _ in error.recipients.values())
        return fail("recipients", f"{host} refuses all recipients: {words}", is_busy=is_busy)
    except smtplib.SMTPAuthenticationError as error:
        return fail("login", f"{host} refuses the user or the password ({error.smtp_code})", is_busy=False)
    except smtplib.SMTPResponseException as error:
        words = f"{host} answers {error.smtp_code} {text_of(error.smtp_error)}"
        return fail(f"smtp_{error.smtp_code}", words, is_busy=400 <= error.smtp_code < 500)
    except ssl.SSLCertVerificationError as error:
        return fail("certificate", f"the certificate of {host} is not trusted: {error.verify_message}", is_busy=False)
    except smtplib.SMTPNotSupportedError as error:
        return fail("unsupported", f"{host}: {error}", is_busy=False)
    except (OSError, smtplib.SMTPException) as error:
        if is_sending:  # not again: it may have been taken
            words = (
                f"the connection to {host} was lost while it was sent ({error}); it is not known whether it was taken"
            )
            return fail("unclear", words, is_busy=False)
        return fail("unreachable", f"{host}, port {port}, cannot be reached: {error}", is_busy=True)
    finally:
        if server is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):  # whatever it says now, the mail is sent, or not
                server.quit()
            server.close()
    for address, (code, said) in refused.items():
        print(f"mail: {host} refuses {address}: {code} {text_of(said)}", file=sys.stderr)
    print(f"sent to {', '.join(one for one in to if one not in refused)}: {message['Subject']}")
    send({"type": "result", "value": {"message_id": message["Message-ID"], "refused": sorted(refused)}})
    return 0


def connected(host: str, port: int, security: str, seconds: float) -> smtplib.SMTP:
    if security == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=seconds, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=seconds)
    if security == "starttls":
        server.starttls(context=ssl.create_default_context())
    return server


def message_of(parameters: dict[str, Any], to: list[str]) -> EmailMessage:
    told = {name: parameters[name] for name in TOLD if name in parameters}
    message = EmailMessage()
    message["From"] = parameters.get("from", f"disbatch@{socket.getfqdn()}")
    message["To"] = ", ".join(to)
    message["Subject"] = filled(parameters["subject"], told) if "subject" in parameters else subject(told)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(idstring="disbatch")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(filled(parameters["text"], told) if "text" in parameters else report(told))
    return message


def subject(told: dict[str, Any]) -> str:
    if "total" not in told:
        return "A message from disbatch-host"
    others = "".join(f", {told[name]} {name}" for name in ("failed", "cancelled", "orphaned") if told.get(name))
    if told.get("cancelled") and told["cancelled"] == told["total"]:
        return f"Batch {told.get('batch', '')}: cancelled, all {told['total']}"
    skipped = f", {told['skipped']} rows skipped" if told.get("skipped") else ""
    return f"Batch {told.get('batch', '')}: {told.get('concluded', 0)} of {told['total']} concluded{others}{skipped}"


ENDS = {
    "concluded": "concluded: they did what they should",
    "failed": "failed",
    "cancelled": "cancelled",
    "orphaned": "orphaned: their machine was lost, and nobody knows how much of them was done",
}
ORIGINS = {
    "created": "became tasks",
    "existing": "became none, since the same was waiting or running already",
    "skipped": "became none, since they did not fit",
}


def report(told: dict[str, Any]) -> str:
    """What came of the batch, in words: of its tasks, of the rows that they come from, and why tasks failed."""
    if "total" not in told:
        return "(no text)\n"
    after = f" after {took(told['seconds'])}" if "seconds" in told else ""
    lines = [f"Batch {told.get('batch', '')} is done{after}.", "", f"Of its {told['total']} tasks"]
    lines += [
        f"{told[name]:>8} {words}" for name, words in ENDS.items() if told.get(name) or name in ("concluded", "failed")
    ]
    if "created" in told:
        lines += ["", "Of the rows that it was made from"]
        lines += [f"{told.get(name, 0):>8} {words}" for name, words in ORIGINS.items()]
    if told.get("causes"):
        lines += ["", "Why tasks failed"]
        lines += [f"{one.get('count'):>8} x {one.get('text')} (key {one.get('key')})" for one in told["causes"]]
    return "\n".join(lines) + "\n"


def took(seconds: float) -> str:
    """Two units at most: 1 h 12 min."""
    left, parts = round(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts[:2]) or "less than a second"


def filled(text: str, told: dict[str, Any]) -> str:
    """The text with {batch} and so on replaced; any other brace stays as it is."""
    causes = "\n".join(f"{one.get('count')} x {one.get('text')}" for one in told.get("causes", ()))
    for name in TOLD:
        text = text.replace(f"{{{name}}}", causes if name == "causes" else str(told.get(name, "")))
    return text


def text_of(said: Any) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def fail(code: str, message: str, *, is_busy: bool) -> int:
    send({"type": "error", "code": code, "message": message})
    print(f"mail: {message}", file=sys.stderr)
    return TRY_AGAIN if is_busy else REFUSED


def send(event: dict[str, Any]) -> None:
    """Give the host an event; nothing if it is run by hand."""
    number: str | None = os.environ.get("DISBATCH_EVENT_FD")
    if number is not None:
        os.write(int(number), json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
