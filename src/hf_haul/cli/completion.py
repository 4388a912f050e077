"""``hf-haul completion``: what a shell needs to complete the command's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.streams import print_result

__all__ = ["SCRIPTS", "add_completion"]

#: The script of each shell. They are made of the parser by .ci/completions.py, and come with the package: a
#: shell that completes must not have to wait for Python.
SCRIPTS: Final = {
    shell: Path(__file__).parent / "completions" / name
    for shell, name in (("bash", "hf-haul.bash"), ("zsh", "_hf-haul"), ("fish", "hf-haul.fish"))
}
_NOTES: Final = """\
where it goes:
  bash  hf-haul completion bash >
            ~/.local/share/bash-completion/completions/hf-haul
  zsh   hf-haul completion zsh > DIR/_hf-haul, with DIR in $fpath
  fish  hf-haul completion fish > ~/.config/fish/completions/hf-haul.fish"""


def add_completion(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "completion",
        _completion,
        "Print what a shell needs to complete options: a script for it to read.",
        examples=("source <(hf-haul completion bash)", "hf-haul completion fish | source"),
        notes=_NOTES,
    )
    parser.set_defaults(needs_settings=False)
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help=", ".join(SCRIPTS))


def _completion(arguments: argparse.Namespace) -> int:
    print_result(SCRIPTS[arguments.shell].read_text(encoding="utf-8").rstrip("\n"))
    return ExitCode.DONE
