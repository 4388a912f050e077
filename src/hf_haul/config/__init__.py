"""Settings, their defaults, and the only reading of ``HF_HAUL_*`` variables.

``settings`` has what can be set, ``layers`` decides between what the environment and the ``file`` say of it,
``quantities`` is how sizes and rates are written, ``timings`` are the seconds that nobody has to choose,
``variables`` has the variables that are no settings, and ``reminders`` says once what has no effect.

May import ``errors`` and what the standard library has: everything else builds on it, the local hub included.
"""

from __future__ import annotations

from hf_haul.config.file import ConfigFile
from hf_haul.config.quantities import GiB, KiB, MiB, parse_rate, parse_size, require_number
from hf_haul.config.settings import (
    DiskCheck,
    Settings,
    SettingsInForce,
    WriteMode,
    setting_fields,
    settings_in_force,
)
from hf_haul.config.timings import DEFAULT_TIMINGS, Timings
from hf_haul.config.variables import ca_bundle, peers_token, serve_token, source_token

__all__ = [
    "DEFAULT_TIMINGS",
    "ConfigFile",
    "DiskCheck",
    "GiB",
    "KiB",
    "MiB",
    "Settings",
    "SettingsInForce",
    "Timings",
    "WriteMode",
    "ca_bundle",
    "parse_rate",
    "parse_size",
    "peers_token",
    "require_number",
    "serve_token",
    "setting_fields",
    "settings_in_force",
    "source_token",
]
