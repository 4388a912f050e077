"""Exit codes, and what goes to stderr."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "say"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def say(text: str) -> None:
    """Write a line to stderr."""
    print(f"hf-haul: {text}", file=sys.stderr, flush=True)
