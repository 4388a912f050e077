"""The command ``hf-haul``, which is also ``hf haul`` where it is installed as an extension of ``hf``.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Callable, Sequence

from hf_haul import __version__
from hf_haul.cli.download import add_download
from hf_haul.cli.env import add_env
from hf_haul.cli.get import add_get
from hf_haul.cli.messages import FAILED, INTERRUPTED, say
from hf_haul.cli.serve import add_serve
from hf_haul.errors import HaulError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; the process's own if ``None``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are bytes, and go out as they are
    if arguments.verbose:
        level = logging.DEBUG if arguments.verbose > 1 else logging.INFO
        logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except KeyboardInterrupt:
        say("interrupted; what was fetched is kept, and the same command goes on from there")
        return INTERRUPTED
    except (HaulError, OSError, ValueError, ImportError) as error:
        say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
        for note in getattr(error, "__notes__", ()):
            say(note)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-haul", description="Resumable, verified, parallel downloads for the Hugging Face Hub."
    )
    parser.add_argument("--version", action="version", version=f"hf-haul {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_download(commands)
    add_get(commands)
    add_serve(commands)
    add_env(commands)
    return parser
