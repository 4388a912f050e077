"""``haul://``: the Hub as an fsspec filesystem whose reads and downloads are checked and parallel.

``core`` is the filesystem, ``files`` are its open files, ``slices`` reads of many files at once,
``prefetching`` what is fetched before it is read, ``copies`` copying files to disk, by way of the Hub's cache
(``cache_copies``) where that is wanted; all of them handle a ``target``, a file at one commit. ``readers``
says how an open file is read, ``lines`` makes lines and small reads cheap, ``beside`` knows which files come
after it. ``listings``, ``freshness`` and ``pinned`` have all reads of one instance see a branch at one
commit; ``folders`` lists each folder once, ``kept`` asks the cache on disk first. ``registration`` gives it
``hf://``, on request, ``upaths`` makes it known to universal_pathlib. Paths, listings and writing are
``huggingface_hub.HfFileSystem``'s.

May import everything but ``cli`` and ``localhub``. Keeps invariant 8: files and filesystems work in a forked
child, and survive pickling.
"""

from __future__ import annotations

from hf_haul.filesystem.core import HaulFileSystem
from hf_haul.filesystem.files import HaulFile, HaulStreamFile
from hf_haul.filesystem.prefetching import Prefetch
from hf_haul.filesystem.registration import register, unregister

__all__ = ["HaulFile", "HaulFileSystem", "HaulStreamFile", "Prefetch", "register", "unregister"]
