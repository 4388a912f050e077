"""Variables of ours that are no settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["OTHER_VARIABLES", "PREFIX", "ca_bundle", "peers_token", "serve_token", "source_token"]

#: With what the names of all our variables begin.
PREFIX: Final = "HF_HAUL_"

#: Each variable that is no setting, and what it is for. Whatever else begins alike is taken for a slip.
OTHER_VARIABLES: Final[Mapping[str, str]] = {
    "HF_HAUL_CONFIG": "the configuration file; empty for none",
    "HF_HAUL_CA_BUNDLE": "certificates to trust besides the usual ones, as of a lab's own server",
    "HF_HAUL_PROGRESS": "how the command shows progress: auto, tty, plain, json or none",
    "HF_HAUL_PEERS_TOKEN": "the token of the machines that 'hf-haul download --peers' names",
    "HF_HAUL_SERVE_TOKEN": "the token that 'hf-haul serve' asks for",
    "HF_HAUL_SOURCE_TOKEN": "the token of the sources (HF_HAUL_SOURCES) that have none of their own",
    "HF_HAUL_NO_SKIP": "of hf-haul's own tests: whether none may be skipped",
}


def ca_bundle(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the file or folder of certificates that ``HF_HAUL_CA_BUNDLE`` names.

    They are trusted besides the others, for requests to the Hub as well as for bytes: a lab's server may have
    a certificate of its own, while what it redirects to has one that everybody trusts.

    Args:
        environ: The variables; the process's own if ``None``.
    """
    return (os.environ if environ is None else environ).get("HF_HAUL_CA_BUNDLE") or None


def peers_token(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what machines that download together know each other by, from ``HF_HAUL_PEERS_TOKEN``.

    It is a secret, and so no setting.

    Args:
        environ: The variables; the process's own if ``None``.

    Returns:
        What the variable holds, also if that is nothing. ``None`` if it is not set.
    """
    return (os.environ if environ is None else environ).get("HF_HAUL_PEERS_TOKEN")


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


def source_token(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the token of the sources that have none of their own, from ``HF_HAUL_SOURCE_TOKEN``.

    Args:
        environ: The variables; the process's own if ``None``.

    Returns:
        ``None`` if it is not set, or empty.
    """
    return (os.environ if environ is None else environ).get("HF_HAUL_SOURCE_TOKEN", "").strip() or None
