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
from urllib.parse import urlencode

from bson.errors import BSONError
from pymongo import MongoClient
from pymongo import errors as driver

from disbatch_host.errors import (
    DuplicateIdError,
    ForeignIndexError,
    StoreError,
    StoreRefusedError,
    StoreUnreachableError,
    UsageError,
)
from disbatch_host.store.url import without_secrets

log = logging.getLogger(__name__)

DUPLICATE_KEY = 11000  # the server's code for it


def is_same_id(failure: Mapping[str, Any]) -> bool:
    """Whether an insert failed because the id exists already. An index of another program may be unique, too."""
    return failure.get("code") == DUPLICATE_KEY and failure.get("keyPattern", {"_id": 1}) == {"_id": 1}


UNAUTHORIZED = 13
_NOT_VALID = 121  # a validator of the collection refuses the document
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
# An index that cannot be created: the same fields with other options or under another name, too many indexes, documents
# of other programs that do not fit into it.
INDEX_CONFLICTS = frozenset({67, 85, 86, 171, DUPLICATE_KEY})
NO_SUCH_INDEX = frozenset({2})  # a query names one that does not exist
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


def refusals(error: driver.BulkWriteError) -> dict[int, StoreRefusedError]:
    """Why the server refuses single writes of a batch because of their content, by their positions; empty if anything
    else is wrong: then nothing is known of any write of the batch."""
    details: Mapping[str, Any] = error.details or {}
    failures = details.get("writeErrors") or []
    if details.get("writeConcernErrors") or {one.get("code") for one in failures} & _UNREACHABLE_CODES:
        return {}
    return {one["index"]: refusal(one) for one in failures}


def is_refusal(error: driver.OperationFailure) -> bool:
    """Whether the server refuses a single write because of its content."""
    is_other = error.code in _UNREACHABLE_CODES | _AUTHENTICATION_CODES | {UNAUTHORIZED}
    return not is_other and not _has_retry_label(error)


def refusal(failure: Mapping[str, Any]) -> StoreRefusedError:
    """Why the server refuses one document, without its values: they may be secret."""
    code, message = failure.get("code"), str(failure.get("errmsg", ""))
    if code == DUPLICATE_KEY:
        name = re.search(r" index: (.+?) dup key", message)
        fields = ", ".join(failure.get("keyPattern", {})) or "the same fields"
        return ForeignIndexError(
            f"the unique index {name[1] if name else fields!r} of another program refuses it: "
            f"another document has the same {fields}"
        )
    if code == _NOT_VALID:
        return StoreRefusedError("a validator of the collection refuses it")
    if code in _TOO_LARGE_CODES or "BSONObj size" in message:
        return StoreRefusedError(TOO_LARGE)
    return StoreRefusedError(f"the server refuses it: {message[:200]}")


# Raised by the driver for a URL: its own errors, and others, where an option is only checked by using it.
BAD_OPTION = (LookupError, TypeError, ValueError, AttributeError, ImportError)
BAD_URL = (driver.InvalidURI, driver.ConfigurationError, *BAD_OPTION)


def is_option_fine(name: str, value: str) -> bool:
    """Whether the driver can use an option of a URL."""
    try:
        MongoClient(f"mongodb://localhost/?{urlencode({name: value})}", connect=False).close()
    except BAD_URL:
        return False
    return True


# Raised by the driver for a value that it cannot encode, before anything is sent.
NOT_ENCODED = (BSONError, driver.DocumentTooLarge, OverflowError, UnicodeError, TypeError, ValueError, RecursionError)


def is_not_sent(error: Exception) -> bool:
    """Whether a batch did not reach the server because one of its documents cannot be encoded, or as a command that it
    does not even read, because one is too large: others of the batch may have been sent in an earlier command."""
    return isinstance(error, NOT_ENCODED) or (
        isinstance(error, driver.OperationFailure)
        and not isinstance(error, driver.BulkWriteError)
        and error.code in _TOO_LARGE_CODES
    )


def not_encoded(error: Exception) -> StoreRefusedError:
    """Why the driver cannot encode a document."""
    if isinstance(error, (driver.DocumentTooLarge, driver.OperationFailure)):
        return StoreRefusedError(TOO_LARGE)
    if isinstance(error, RecursionError):
        return StoreRefusedError("it is nested too deeply")
    if isinstance(error, OverflowError):
        return StoreRefusedError("it has a number that needs more than 64 bits")
    kind = re.search(r"of type: <class '([\w.]+)'>", str(error))  # not the value: it may be secret
    return StoreRefusedError(f"it has a value that BSON cannot represent{f', of type {kind[1]}' if kind else ''}")


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
    except (driver.WriteError, driver.BulkWriteError) as error:
        raise _of_write_error(where, error, duplicate) from error
    except driver.DocumentTooLarge as error:
        raise StoreRefusedError(TOO_LARGE) from error
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
            raise StoreRefusedError(TOO_LARGE) from error
        raise StoreRefusedError(f"{where} refuses a value: {short(error)}") from error
    except RecursionError as error:
        raise StoreRefusedError(f"{where} refuses a value: it is nested too deeply") from error


TOO_LARGE = (
    "expected a task document of at most 16777216 bytes, found a larger one; "
    "put large data into a file and its path into the parameters"
)


def _of_write_error(where: str, error: driver.OperationFailure, duplicate: str) -> Exception:
    details: Mapping[str, Any] = error.details or {}
    failures = details.get("writeErrors") or [details]
    # A write that was not confirmed may vanish again, so nothing else that the answer says counts.
    if details.get("writeConcernErrors") or {one.get("code") for one in failures} & _UNREACHABLE_CODES:
        return StoreUnreachableError(f"{where} could not confirm a write: {short(error)}")
    first = next((one for one in failures if not is_same_id(one)), None)
    if first is None:
        return DuplicateIdError(duplicate or f"{where}: an id exists already")
    found = refusal(first)
    return type(found)(f"{where} refuses a write: {found}")


def _of_operation(where: str, error: driver.OperationFailure) -> Exception:
    if error.code in _AUTHENTICATION_CODES:
        return StoreRefusedError(f"{where} refuses the user or password; check both, and authSource")
    if error.code == UNAUTHORIZED:
        return StoreRefusedError(f"{where} refuses for lack of rights: {short(error)}")
    if error.code in _UNREACHABLE_CODES or _has_retry_label(error):
        return StoreUnreachableError(f"{where} cannot answer now: {short(error)}")
    if error.code in _TOO_LARGE_CODES or "BSONObj size" in str(error) or "too large" in str(error):
        return StoreRefusedError(TOO_LARGE)
    return StoreRefusedError(f"{where} refuses: {short(error)}")


def short(error: Exception) -> str:
    """The driver's words without its topology dump."""
    return re.split(r", Timeout: |, full error: |, Topology | \(configured timeouts", str(error), maxsplit=1)[0][:300]


def of_file(error: OSError) -> str:
    return f"{error.strerror or error}: {os.strerror(error.errno)}" if error.errno else str(error)


def harmless(error: Exception, url: str) -> str:
    """The driver's words about a URI, without the URI's secrets and in words for the person who typed it."""
    words = str(error.args[0]) if isinstance(error, KeyError) else short(error)  # of it, only the key in quotes
    text = without_secrets(words, url)
    if "RFC 3986" in text:
        return "in user and password, percent-encode : / ? # [ ] @ (a slash is %2F)"
    return re.split(r"[.,;]? (?:Refer to|See|Supported options)", text, maxsplit=1)[0]
