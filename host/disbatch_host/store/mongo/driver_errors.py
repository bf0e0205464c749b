"""The driver's exceptions, translated to the host's.

Responsible for: being the only place that knows the names and codes of the driver's and the server's errors. Must not
know: what was asked for, beyond the words for a duplicate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bson.errors import BSONError
from pymongo import errors as driver

from disbatch_host.errors import DuplicateIdError, StoreError, StoreRefusedError, StoreUnreachableError, UsageError
from disbatch_host.store.url import without_secrets

log = logging.getLogger(__name__)

DUPLICATE_KEY = 11000  # the server's code for it


def is_same_id(failure: Mapping[str, Any]) -> bool:
    """Whether an insert failed because the id exists already. An index of another program may be unique, too."""
    return failure.get("code") == DUPLICATE_KEY and failure.get("keyPattern", {"_id": 1}) == {"_id": 1}


UNAUTHORIZED = 13
_AUTHENTICATION_CODES = frozenset({11, 18, 8000})  # no such user, wrong password, Atlas's own for both
# Network, shutdown, change of primary, write not confirmed in time, too much to do; a cursor or a plan that is gone
# meanwhile.
_UNREACHABLE_CODES = frozenset(
    {
        6, 7, 43, 50, 64, 89, 90, 91, 133, 134, 175, 189, 202, 237, 262, 358, 402, 406, 407, 412, 453, 462,
        9001, 10107, 11600, 11601, 11602, 13435, 13436,
    }
)  # fmt: skip
# The server's own labels for operations that may be tried again; the first only marks writes that the driver retries.
_RETRY_LABELS = ("RetryableWriteError", "RetryableError", "SystemOverloadedError")
_NOT_CONFIRMED = 64  # the write was carried out, and a majority did not confirm it in time
INDEX_CONFLICTS = frozenset({67, 85, 86})  # the same fields with other options or under another name
NO_STREAMS = frozenset({13, 20, 59, 8000, 40324, 40573})  # standalone, or no right to watch: that does not change
_TOO_LARGE_CODES = frozenset({10334, 17280, 17419, 17420})


def is_worth_another_try(error: driver.PyMongoError) -> bool:
    """Whether a write may have been lost on its way, or met a server that cannot take it right now. Not if the server
    says that it was carried out but not confirmed: sending it again would only mean waiting once more."""
    if isinstance(error, driver.ServerSelectionTimeoutError):
        return False  # that try took some seconds already
    if isinstance(error, driver.ConnectionFailure):
        return True
    if not isinstance(error, driver.OperationFailure):
        return False
    details: Mapping[str, Any] = error.details or {}
    failures = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    codes = {error.code, *(one.get("code") for one in failures)}
    return (bool(codes & _UNREACHABLE_CODES) or _has_retry_label(error)) and _NOT_CONFIRMED not in codes


def _has_retry_label(error: driver.PyMongoError) -> bool:
    return any(error.has_error_label(label) for label in _RETRY_LABELS)


def too_large(error: driver.BulkWriteError) -> list[int]:
    """The positions, in a failed batch, of updates that would have made a document too large, if nothing else was
    wrong; else none."""
    failures = (error.details or {}).get("writeErrors") or []
    if (error.details or {}).get("writeConcernErrors") or {one.get("code") for one in failures} - _TOO_LARGE_CODES:
        return []
    return [one["index"] for one in failures]


@contextlib.contextmanager
def only_looking(what_is_left_out: str) -> Iterator[None]:
    """For an account that may only read: the nodes of a cluster create anything that is missing in it."""
    try:
        yield
    except driver.OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        log.debug("%s, there is no right to: %s", what_is_left_out, error)


@contextlib.contextmanager
def translated(where: str, url: str, duplicate: str = "") -> Iterator[None]:
    """Translate the driver's exceptions to the host's (errors, rule 3)."""
    try:
        yield
    except StoreError:
        raise
    except (driver.DuplicateKeyError, driver.BulkWriteError) as error:
        raise _of_write_error(where, error, duplicate) from error
    except driver.DocumentTooLarge as error:
        raise StoreRefusedError(_TOO_LARGE) from error
    except driver.ConfigurationError as error:
        if "DNS" in str(error):  # of a mongodb+srv:// name, which is looked up before anything else
            raise StoreUnreachableError(f"{where} cannot be reached: {harmless(error, url)}") from None
        raise UsageError(f"{where}: {harmless(error, url)}") from error
    except driver.OperationFailure as error:
        raise _of_operation(where, error) from error
    except driver.ConnectionFailure as error:
        raise StoreUnreachableError(
            f"{where} cannot be reached: {short(error)}; is the server running there?"
        ) from error
    except OSError as error:  # a file that the URI names; the network's errors are the driver's own
        raise UsageError(f"{where}: {of_file(error)}") from None
    except driver.InvalidOperation as error:  # the client was closed
        raise StoreUnreachableError(f"{where} is not open") from error
    except (BSONError, OverflowError, UnicodeError, driver.PyMongoError) as error:
        if "too large" in str(error).lower():
            raise StoreRefusedError(_TOO_LARGE) from error
        raise StoreRefusedError(f"{where} refuses a value: {short(error)}") from error
    except RecursionError as error:
        raise StoreRefusedError(f"{where} refuses a value: it is nested too deeply") from error


_TOO_LARGE = (
    "expected a task document of at most 16777216 bytes, found a larger one; "
    "put large data into a file and its path into the parameters"
)


def _of_write_error(where: str, error: driver.OperationFailure, duplicate: str) -> Exception:
    details: Mapping[str, Any] = error.details or {}
    write_errors = details.get("writeErrors") or [details]
    codes = {one.get("code") for one in write_errors}
    if DUPLICATE_KEY in codes or isinstance(error, driver.DuplicateKeyError):
        return DuplicateIdError(duplicate or f"{where}: an id exists already")
    concern = details.get("writeConcernErrors") or []
    if concern or codes & _UNREACHABLE_CODES:
        return StoreUnreachableError(f"{where} could not confirm a write: {short(error)}")
    message = "; ".join(str(one.get("errmsg", ""))[:200] for one in write_errors[:1])
    if codes & _TOO_LARGE_CODES or "BSONObj size" in message:
        return StoreRefusedError(_TOO_LARGE)
    return StoreRefusedError(f"{where} refuses a write: {message or short(error)}")


def _of_operation(where: str, error: driver.OperationFailure) -> Exception:
    if error.code in _AUTHENTICATION_CODES:
        return StoreRefusedError(f"{where} refuses the user or password; check both, and authSource")
    if error.code == UNAUTHORIZED:
        return StoreRefusedError(f"{where} refuses for lack of rights: {short(error)}")
    if error.code in _UNREACHABLE_CODES or _has_retry_label(error):
        return StoreUnreachableError(f"{where} cannot answer now: {short(error)}")
    if error.code in _TOO_LARGE_CODES or "BSONObj size" in str(error) or "too large" in str(error):
        return StoreRefusedError(_TOO_LARGE)
    return StoreRefusedError(f"{where} refuses: {short(error)}")


def short(error: Exception) -> str:
    """The driver's words without its topology dump."""
    return re.split(r", Timeout: |, full error: |, Topology | \(configured timeouts", str(error), maxsplit=1)[0][:300]


def of_file(error: OSError) -> str:
    return f"{error.strerror or error}: {os.strerror(error.errno)}" if error.errno else str(error)


def harmless(error: Exception, url: str) -> str:
    """The driver's words about a URI, without the URI's secrets and in words for the person who typed it."""
    text = without_secrets(short(error), url)
    if "RFC 3986" in text:
        return "in user and password, percent-encode : / ? # [ ] @ (a slash is %2F)"
    return re.split(r"[.,;]? (?:Refer to|See|Supported options)", text, maxsplit=1)[0]
