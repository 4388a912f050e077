"""The Hub as an fsspec filesystem whose reads and downloads are checked and parallel."""

from __future__ import annotations

from hf_haul.filesystem.core import HaulFileSystem
from hf_haul.filesystem.files import HaulFile, HaulStreamFile

__all__ = ["HaulFile", "HaulFileSystem", "HaulStreamFile"]
