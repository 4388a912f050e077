"""``hf-haul env``: versions, and the settings in force."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from dataclasses import fields
from typing import Any, Final

from hf_haul import __version__
from hf_haul.cli.arguments import add_command
from hf_haul.cli.messages import OK
from hf_haul.config import Settings
from hf_haul.urls import redact

__all__ = ["add_env"]

#: Whose versions matter in a report about a fault.
_LIBRARIES: Final = ("huggingface_hub", "fsspec", "requests", "urllib3", "tenacity", "hf_xet", "aiohttp")


def add_env(commands: Any) -> None:
    """Add the command."""
    add_command(
        commands, "env", _env, "Show versions and the settings in force; add this to a report about a fault."
    )


def _env(_: argparse.Namespace) -> int:
    from huggingface_hub import constants, get_token

    print(f"hf-haul {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in _LIBRARIES:
        print(f"  {name:<16} {_version(name)}")
    print("Hub")
    print(f"  {'endpoint':<16} {redact(constants.ENDPOINT)}")
    print(f"  {'cache':<16} {constants.HF_HUB_CACHE}")
    print(f"  {'token':<16} {'yes' if get_token() else 'no'}")
    print("Settings (* changed by a variable)")
    defaults, settings = Settings(), Settings.from_environment()
    for field in fields(Settings):
        value = getattr(settings, field.name)
        mark = "*" if value != getattr(defaults, field.name) else " "
        print(f"{mark} {'HF_HAUL_' + field.name.upper():<40} {value}")
    return OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
