"""The Disbatch plugin protocol 1 and the task life cycle, as pure functions and records.

Nothing in this package opens a socket, a file of the user's or a process: bytes and documents go in, decisions and
records come out. `protocol/SPEC.md` is the normative text, `protocol/vectors/` the cases that any implementation can
be held against. The only thing read from disk are the package's own schemas, once, when first asked for.
"""

PROTOCOL_VERSION = 1  # what a manifest names in "protocol"
SPEC_VERSION = "1.0"  # of the Disbatch Execution Node text that the documents follow
