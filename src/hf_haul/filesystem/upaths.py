"""``haul://`` for universal_pathlib, which finds it by the package's entry point."""

from __future__ import annotations

import fsspec
from upath import UPath

from hf_haul.filesystem.core import HaulFileSystem

__all__ = ["HaulPath"]

# universal_pathlib asks the filesystem's class how paths are written, if fsspec has loaded it; else it warns.
fsspec.register_implementation("haul", HaulFileSystem, clobber=True)


class HaulPath(UPath):
    """A path of :class:`~hf_haul.filesystem.HaulFileSystem`; what ``UPath("haul://...")`` makes."""

    __slots__ = ()
