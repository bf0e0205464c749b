"""disbatch-host: a Disbatch execution node that runs plugins written in any language.

The package is the node, its stores and the command line. What a plugin and a task document mean is decided in
`disbatch_protocol`, which does no I/O; who may import whom is written in `docs/internals.md` and held by a test.
"""

__version__ = "0.2.0"
