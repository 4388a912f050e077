"""Settings, their defaults, and the only reading of ``HF_HAUL_*`` variables.

``settings`` has what can be set, ``quantities`` how sizes and rates are written, ``variables`` the variables
that are no settings.

May import ``errors`` and what the standard library has: everything else builds on it, the local hub included.
"""

from __future__ import annotations

from hf_haul.config.quantities import GiB, KiB, MiB, parse_rate, parse_size, require_number
from hf_haul.config.settings import DiskCheck, Settings, WriteMode
from hf_haul.config.variables import serve_token

__all__ = [
    "DiskCheck",
    "GiB",
    "KiB",
    "MiB",
    "Settings",
    "WriteMode",
    "parse_rate",
    "parse_size",
    "require_number",
    "serve_token",
]
