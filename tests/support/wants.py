"""What a test needs and a machine may not have: without it the test is skipped, and where nothing may be, fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Final, NoReturn

import pytest

__all__ = ["NO_SKIP", "do_without", "want_modules", "want_program"]

#: The variable that CI sets: what is missing then is a failure, so that a test cannot drop out of CI unseen.
NO_SKIP: Final = "HF_HAUL_NO_SKIP"
#: Where servers are, beside the PATH of a user who is not root.
_MORE_FOLDERS: Final = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])


def want_modules(*names: str, extra: str) -> None:
    """Skip the calling test, or module of tests, unless these packages are there.

    Args:
        *names: What is imported.
        extra: The extra of ours that has them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        do_without(f"not installed: {', '.join(missing)} (pip install hf-haul[{extra}])")


def want_program(name: str) -> str:
    """The path of a program; the calling test is skipped without it."""
    found = shutil.which(name) or shutil.which(name, path=_MORE_FOLDERS)
    return found or do_without(f"no program {name} on this machine")


def do_without(reason: str) -> NoReturn:
    """Skip the calling test, or module of tests; where nothing may be missing, fail it."""
    if os.environ.get(NO_SKIP, "0") not in {"", "0"}:
        pytest.fail(f"{reason}, and {NO_SKIP} is set", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
