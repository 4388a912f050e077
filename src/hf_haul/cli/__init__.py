"""The command ``hf-haul``; the only package that prints.

``command`` has the parser and the exit codes' meaning; each command has a module of its own, which adds its
arguments and carries it out. What a command needs of the library it imports when it runs, so that ``--help``
is quick.

May import everything, the local hub included. Nothing imports it.
"""

from __future__ import annotations

from hf_haul.cli.command import main

__all__ = ["main"]
