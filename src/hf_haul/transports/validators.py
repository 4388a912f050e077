"""What tells one version of a file from another (HTTP's validators: RFC 9110, section 8.8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hf_haul.task import RemoteFile

__all__ = ["is_comparable", "kind_of", "normalize_etag", "versions_in"]

#: Begins a version that is a date, to tell it from an etag.
_MODIFIED: Final = "modified "


def normalize_etag(value: str | None) -> str | None:
    """An etag without quotes and without the mark of a weak one."""
    return value.removeprefix("W/").strip('"') if value else None


def versions_in(headers: Mapping[str, str]) -> dict[str, str]:
    """What tells one version of a file from another, best first, by kind (RFC 9110, section 8.8)."""
    etag, modified = normalize_etag(headers.get("ETag")), headers.get("Last-Modified")
    found = {"etag": etag, "modified": modified and f"{_MODIFIED}{modified}"}
    return {kind: value for kind, value in found.items() if value}


def kind_of(version: str) -> str:
    """Whether a version is an etag or a date."""
    return "modified" if version.startswith(_MODIFIED) else "etag"


def is_comparable(etag: str, remote: RemoteFile) -> bool:
    """Whether an etag can be compared with the one we know; a mirror may name by md5 what we know by its digest."""
    return remote.digest is None or re.fullmatch(rf"[0-9a-f]{{{len(remote.digest.value)}}}", etag) is not None
