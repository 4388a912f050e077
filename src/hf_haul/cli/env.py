"""``hf-haul env``: versions, and the settings in force."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from typing import Any, Final

from hf_haul import __version__
from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode, wrong_settings_are_usage
from hf_haul.cli.streams import print_result
from hf_haul.config import ConfigFile, SettingsInForce, settings_in_force
from hf_haul.urls import redact

__all__ = ["add_env"]

#: Whose versions matter in a report about a fault.
_LIBRARIES: Final = ("huggingface_hub", "fsspec", "requests", "urllib3", "tenacity", "hf_xet", "aiohttp")

_STATES: Final = {"read": "", "absent": " (not there)", "refused": " (not read: {reason})"}


def add_env(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "env",
        _env,
        "Show versions and the settings in force; add this to a report about a fault.",
        examples=("hf-haul env", "hf-haul env --json"),
    )
    parser.set_defaults(needs_settings=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _env(arguments: argparse.Namespace) -> int:
    versions, hub = {name: _version(name) for name in _LIBRARIES}, _hub()
    if arguments.json:
        with wrong_settings_are_usage():
            found = settings_in_force()
        print_result(json.dumps(_as_json(versions, hub, found), indent=2))
        return ExitCode.DONE
    print_result(f"hf-haul {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name, version in versions.items():
        print_result(f"  {name:<16} {version or 'not installed'}")
    print_result("Hub")
    for name, value in hub.items():
        print_result(f"  {name:<16} {('no', 'yes')[value] if isinstance(value, bool) else value}")
    with wrong_settings_are_usage():
        found = settings_in_force()  # last, because it fails where one makes no sense
    _print_settings(found)
    return ExitCode.DONE


def _hub() -> dict[str, str | bool]:
    from huggingface_hub import constants, get_token

    return {
        "endpoint": redact(constants.ENDPOINT),
        "cache": constants.HF_HUB_CACHE,
        "token": get_token() is not None,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print_settings(found: SettingsInForce) -> None:
    print_result("Configuration file")
    print_result(f"  {_describe(found.file)}")
    print_result("Settings (* changed), and where each comes from")
    for name, origin in found.origins.items():
        mark = " " if origin.kind == "default" else "*"
        value = _shown(getattr(found.settings, name))
        print_result(f"{mark} {'HF_HAUL_' + name.upper():<40} {value!s:<12} {origin}")


def _shown(value: Any) -> Any:
    """Return a value fit to be shown: of URLs, without their passwords."""
    return ",".join(map(redact, value)) or None if isinstance(value, tuple) else value


def _describe(file: ConfigFile) -> str:
    if file.path is None:
        return "none"
    return f"{file.path}{_STATES[file.state].format(reason=file.reason)}"


def _as_json(
    versions: dict[str, str | None], hub: dict[str, str | bool], found: SettingsInForce
) -> dict[str, Any]:
    file = found.file
    return {
        "hf_haul": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions,
        "hub": hub,
        "config_file": {
            "path": None if file.path is None else str(file.path),
            "state": file.state,
            "reason": file.reason or None,
        },
        "settings": {
            name: {
                "value": _shown(getattr(found.settings, name)),
                "variable": f"HF_HAUL_{name.upper()}",
                "from": origin.kind,
                "name": origin.name or None,
                "file": None if origin.file is None else str(origin.file),
            }
            for name, origin in found.origins.items()
        },
    }
