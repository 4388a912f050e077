"""Make the completions of the shells from the parser: ``python .ci/completions.py [--check]``.

shtab writes them: it is kept well, and knows five shells' rules; and as they come with the package as files,
nobody needs it to complete. Run it again whenever an option changes; a test says so.
"""

from __future__ import annotations

import argparse
import sys

import shtab

from hf_haul.cli import command
from hf_haul.cli.completion import SCRIPTS
from hf_haul.cli.manual import commands_of, summaries_of

#: What arguments stand for, by what they are called in the help.
_FOLDERS = {"DIR", "FOLDER", "REPO|FOLDER", "PATH"}
_FILES = {"FILE", "PEM"}


def make(shell: str) -> str:
    """Return the script of a shell."""
    parser = command._parser()  # noqa: SLF001  nobody else needs it
    summaries = summaries_of(parser)
    for name, each in commands_of(parser).items():
        each.description = summaries[name]
        for action in each._actions:  # noqa: SLF001  argparse has no public way to them
            if action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own way
            elif action.metavar in _FILES and (action.option_strings or name == "serve"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # the same
            if isinstance(action.metavar, str):
                action.metavar = action.metavar.replace(":", "")  # which separates fields for zsh
            if action.help:
                action.help = action.help.removesuffix(" (default: %(default)s)")  # of Python 3.10's own
            if action.metavar == "COMMAND":
                action.choices = list(commands_of(parser))
    text = shtab.complete(parser, shell=shell)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def main() -> int:
    """Write them, or with ``--check`` say whether they are as they should be."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true")
    check = options.parse_args().check
    old = []
    for shell, path in SCRIPTS.items():
        text = make(shell)
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            old.append(path.name)
        elif not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if old:
        print(f"not what the parser says: {', '.join(old)}; run: python .ci/completions.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
