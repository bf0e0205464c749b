"""A node as the command line runs it, but with a pace of its own: `python -m helpers.paced_node PACE OPTION...`, where
PACE is JSON with the intervals that are not the usual ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from disbatch_host.cli.commands.run import run
from disbatch_host.cli.frame import common_options, node_options
from disbatch_host.node.pace import Pace


def main(pace: str, options: Sequence[str]) -> int:
    @click.command()
    @common_options
    @node_options
    @click.pass_context
    def node(context: click.Context, /, **for_node: Any) -> int:
        return run(context.ensure_object(dict), for_node, pace=Pace(**json.loads(pace)))

    return int(node.main(list(options), standalone_mode=False, obj={}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
