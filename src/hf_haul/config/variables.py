"""Variables of ours that are no settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["serve_token"]


def serve_token(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the token that ``hf-haul serve`` asks for, from ``HF_HAUL_SERVE_TOKEN``.

    It is a secret, and so no setting.

    Args:
        environ: The variables; the process's own if ``None``.

    Returns:
        What the variable holds, also if that is nothing: whoever sets it means to have one. ``None`` if it is
        not set.
    """
    return (os.environ if environ is None else environ).get("HF_HAUL_SERVE_TOKEN")
