"""A repository of any number of small files that is nowhere: names, digests and bytes follow from a number.

``python -m tests.benchmarks.many_files COUNT`` serves one in a process of its own, prints its URL, and ends with its input.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from typing import Final

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.objects import BytesContent
from hf_haul.localhub.trees import DirEntry, Entry, FileEntry, Tree

__all__ = ["FIRST", "REPO_ID", "CountedTree", "serve", "served_apart"]

REPO_ID: Final = "bench/many"
#: The file that goes before all others, and is the last that a listing names.
FIRST: Final = "zzz.json"
_COMMIT: Final = "b" * 40
_PER_FOLDER: Final = 1000
#: Files that the repository's info names: the Hub cuts it short, too.
_NAMED: Final = 1000


class CountedTree(Tree):
    """The files of a commit: ``count - 1`` images in folders of a thousand, and :data:`FIRST`.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._images = count - 1
        self._folders = -(-self._images // _PER_FOLDER)
        # Mapping and dict differ in what a type checker wants, and in nothing that a hub does with it.
        self.files = _Files(self)  # type: ignore[assignment]  # see above

    def __len__(self) -> int:
        return self._images + 1

    def image(self, number: int) -> FileEntry:
        """Return one of the images."""
        name = f"images/{number // _PER_FOLDER:05d}/{number:08d}.png"
        return FileEntry(name, BytesContent(f"{number:08d}".encode()), is_lfs=False)

    @property
    def first(self) -> FileEntry:
        """What goes first."""
        return FileEntry(FIRST, BytesContent(b"{}"), is_lfs=False)

    @property
    def oid(self) -> str:
        """Any git id will do."""
        return _COMMIT

    def get(self, path: str) -> Entry | None:
        """Return a file; directories are not asked for."""
        return self.files.get(path)

    def is_dir(self, path: str) -> bool:
        """Return whether it is the root, which is all that is listed."""
        return not path

    def page(
        self, path: str, *, recursive: bool, after: tuple[int, str] | None, limit: int
    ) -> tuple[list[Entry], tuple[int, str] | None]:
        """Return one page of the recursive listing: the position after it is a row's number."""
        del path, recursive
        start = 0 if after is None else after[0]
        rows = list(map(self._row, range(start, min(start + limit, len(self) + self._folders + 1))))
        more = start + limit < len(self) + self._folders + 1
        return rows, (start + limit, "") if more else None

    def _row(self, number: int) -> Entry:
        if number <= self._folders:
            name = "images" if number == 0 else f"images/{number - 1:05d}"
            return DirEntry(name, hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest())
        number -= self._folders + 1
        return self.image(number) if number < self._images else self.first


class _Files(Mapping[str, FileEntry]):
    """The files by path, made when asked for; :meth:`values` has the first thousand, as an info does."""

    def __init__(self, tree: CountedTree) -> None:
        self._tree = tree
        self._entry = lru_cache(1000)(self._find)

    def _find(self, path: str) -> FileEntry:
        if path == FIRST:
            return self._tree.first
        number = path.rpartition("/")[2].removesuffix(".png")
        if number.isdecimal() and int(number) < len(self) - 1 and self._tree.image(int(number)).path == path:
            return self._tree.image(int(number))
        raise KeyError(path)

    def __getitem__(self, path: str) -> FileEntry:
        return self._entry(path)

    def __len__(self) -> int:
        return len(self._tree)

    def __iter__(self) -> Iterator[str]:
        images = (self._tree.image(number).path for number in range(len(self) - 1))
        return islice(chain((FIRST,), images), _NAMED)


def serve(count: int) -> LocalHub:
    """Return a hub with the repository; the caller starts and closes it."""
    repo = Repo(REPO_ID, "dataset")
    repo.add_tree(CountedTree(count), "Many files", known_id=_COMMIT)
    return LocalHub(repo, log_size=10)


@contextmanager
def served_apart(count: int) -> Iterator[str]:
    """Serve the repository in a process of its own during the block, and yield its URL."""
    argv = [sys.executable, "-m", "tests.benchmarks.many_files", str(count)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main() -> int:
    """Serve until the input ends."""
    with serve(int(sys.argv[1])) as hub:
        print(hub.url, flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
