"""``python -m hf_haul.cli``."""

from __future__ import annotations

import sys

from hf_haul.cli.command import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
