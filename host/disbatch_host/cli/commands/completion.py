"""`disbatch-host completion`: the script for a shell, and Bash's way of asking.

Rule: nothing is printed but completions; a message would appear in the middle of the command line.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class
from click.shell_completion import split_arg_string as split_line

from disbatch_host.cli.frame import PROGRAM, common_options
from disbatch_host.cli.kinds import OneOf

COMPLETE_VARIABLE = "_DISBATCH_HOST_COMPLETE"  # as Click names it


@click.command()
@click.argument("shell", type=OneOf(["bash", "zsh", "fish"]))
@common_options
def completion(shell: str) -> None:
    """Print the script for shell completion of commands, options, and the ids in the store.

    \b
      disbatch-host completion bash > ~/.local/share/bash-completion/completions/disbatch-host
      disbatch-host completion zsh > ~/.zfunc/_disbatch-host
      disbatch-host completion fish > ~/.config/fish/completions/disbatch-host.fish

    Or, in the file that the shell reads when it starts:

    \b
      eval "$(disbatch-host completion bash)"

    For zsh, ~/.zfunc has to be in $fpath before compinit. Ids come from the store of a --store earlier in the
    line, or of DISBATCH_STORE or the configuration file.
    """
    register()
    found = get_completion_class(shell)
    assert found is not None, shell
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, PROGRAM, COMPLETE_VARIABLE).source(), nl=False)


def register() -> None:
    """Register this module's completion classes with Click."""
    add_completion_class(_Bash)


class _Bash(BashComplete):
    """Bash also splits a line at each `:` and `=`, which would cut a store's URL or a class like Mail::Move into
    three words. This reads the line itself instead, and of a completed word returns only the part that Bash still
    lacks."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' completion type value
    COMPREPLY=()
    for completion in $(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null); do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            compopt -o default
        else
            COMPREPLY+=("$(printf %%q "$value")")
        fi
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if line is None:
            return super().get_completion_args()
        line = os.fsencode(line)[: int(os.environ["COMP_POINT"])].decode(errors="replace")
        words = split_line(line)
        self._incomplete = "" if not words or line[-1:].isspace() else words.pop()
        while words and "=" in words[0]:  # VARIABLE=VALUE before the command
            words.pop(0)
        return words[1:], self._incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        typed = getattr(self, "_incomplete", "")
        breaks = [typed.rfind(one) + 1 for one in ":=" if one in os.environ.get("COMP_WORDBREAKS", "")]
        return f"{item.type},{str(item.value)[max(breaks, default=0) :]}"
