"""The command ``hf-haul``; the only package that prints.

May import everything, the local hub included. Nothing imports it.
"""

from __future__ import annotations

from hf_haul.cli.command import main

__all__ = ["main"]
