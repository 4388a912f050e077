"""What tells versions of a file apart (HTTP's validators: RFC 9110, section 8.8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hf_haul.task import RemoteFile

__all__ = ["is_comparable", "kind_of", "normalize_etag", "versions_in"]

#: Begins a version that is a date, to tell it from an etag.
_MODIFIED: Final = "modified "


def normalize_etag(value: str | None) -> str | None:
    """Return an etag without quotes and without the mark of a weak one."""
    return value.removeprefix("W/").strip('"') if value else None


def versions_in(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what tells versions of a file apart, by kind, best first (RFC 9110, section 8.8)."""
    etag, modified = normalize_etag(headers.get("ETag")), headers.get("Last-Modified")
    found = {"etag": etag, "modified": modified and f"{_MODIFIED}{modified}"}
    return {kind: value for kind, value in found.items() if value}


def kind_of(version: str) -> str:
    """Return whether a version is an etag or a date."""
    return "modified" if version.startswith(_MODIFIED) else "etag"


def is_comparable(etag: str, remote: RemoteFile) -> bool:
    """Return whether an etag can be compared with the known one.

    A mirror may use md5 where we know a digest.
    """
    return remote.digest is None or re.fullmatch(rf"[0-9a-f]{{{len(remote.digest.value)}}}", etag) is not None
