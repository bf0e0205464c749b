"""The Disbatch plugin protocol 1 and the task life cycle, as pure functions and records.

Nothing in this package opens a socket, a user's file or a process: bytes and documents go in, decisions and
records come out. `protocol/SPEC.md` is the normative text, `protocol/vectors/` holds the test cases for any
implementation. Only the package's own schemas are read from disk, once, on first use.
"""

PROTOCOL_VERSION = 1  # the value of "protocol" in a manifest
SPEC_VERSION = "1.0"  # of the Disbatch Execution Node text that the documents follow
