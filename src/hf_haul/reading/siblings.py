"""Which files will be opened next: no I/O, one object for the files of one repository at one commit.

A *run* is files that are opened in the order of their names, or nearly so, since readers with several threads
mix neighbours up. From the second file of a run on, the next one is looked ahead at, then two, four, eight.
Where files are opened at random, a run has to be the longer to be believed, the more of them there were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from hf_haul.config import MiB
from hf_haul.metrics import SMALL_FILE

__all__ = ["OpenOrder", "Outlook", "Visit"]

#: Files after the last one of a run, one of which has to be opened next for the run to go on. After its first
#: file it has to be the very next.
_NEAR: Final = 4
#: Files ahead at the most; of those that are small and are read whole, more.
_DEPTH: Final = 8
_SMALL_DEPTH: Final = 32
#: Runs that are followed at once, and how many of them in one folder.
_RUNS: Final = 8
_RUNS_IN_FOLDER: Final = 2
#: Runs that may begin before later ones are believed any less.
_FREE_RUNS: Final = 4
#: Files of a run after which the runs before it are forgiven.
_LONG: Final = 5
#: Folders whose columns are remembered.
_FOLDERS: Final = 256
#: Files of a run that are remembered: those that were opened, and those that were passed over.
_REMEMBERED: Final = 64
#: Bytes that may be looked ahead at and be read by nobody; or this share of what was read, if that is more.
_ALLOWED: Final = 16 * MiB
_ALLOWED_SHARE: Final = 0.5
#: Share of a small file that counts as all of it.
_WHOLE: Final = 0.9


@dataclass(eq=False)
class Visit:
    """What the reader of one file has done with it so far.

    Attributes:
        size: Bytes of the file.
        read: Bytes read; of those read twice, both.
        columns: Columns of a parquet file that were read, by their numbers. Readers in a folder share them.
    """

    size: int
    read: int = 0
    columns: set[int] = field(default_factory=set)

    @property
    def is_whole(self) -> bool:
        """Whether it is a small file, of which all was read."""
        return self.size <= SMALL_FILE and self.read >= _WHOLE * self.size


@dataclass(frozen=True)
class Outlook:
    """What to look ahead at.

    Attributes:
        names: Files, the nearest first.
        whole: Whether all of them, if they are small.
        columns: Else these columns, if they are parquet files.
    """

    names: list[str]
    whole: bool = False
    columns: frozenset[int] = frozenset()


@dataclass(eq=False)
class _Run:
    """Files opened in order.

    Attributes:
        last: The one farthest on.
        coming: Those after it, as far as they matter.
        visits: The latest; the next readers will do as they did.
        length: How many were opened.
        depth: How many to look ahead at.
        known: Those that were opened or passed over, the latest last.
    """

    last: str
    coming: list[str]
    visits: deque[Visit]
    length: int = 1
    depth: int = 0
    known: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


class OpenOrder:
    """Follows the files that are opened. Not thread-safe: its owner guards it."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []  # the latest first
        self._begun = 0
        self._columns: dict[str, set[int]] = {}  # by folder
        self._ahead: dict[str, int] = {}  # bytes of files looked ahead at and not opened since
        self._ahead_bytes = 0
        self._visits: deque[Visit] = deque()
        self._read = 0

    def visit(self, name: str, visit: Visit, after: Callable[[str], Iterator[str]]) -> Outlook:
        """Note that a file is opened, and say what to look ahead at.

        Args:
            name: The file.
            visit: What its reader will do.
            after: Gives the names of the files after one, in order.
        """
        self._ahead_bytes -= self._ahead.pop(name, 0)
        self._note(visit)
        visit.columns = self._columns_of(name)
        run = self._run_of(name)
        if run is None:
            self._begin(name, visit, after)
            return Outlook([])
        run.visits.appendleft(visit)
        if name not in run.coming:  # it was opened before, or passed over
            return Outlook([])
        passed = run.coming[: run.coming.index(name)]
        run.known.extend([*passed, name])
        run.last, run.length = name, run.length + 1
        run.coming = list(islice(after(name), _SMALL_DEPTH + _NEAR))
        if run.length >= _LONG or (run.length >= _NEAR and not run.coming):
            self._begun = 0
        return self._outlook(run) if self._is_believed(run) else Outlook([])

    def take(self, name: str, nbytes: int) -> bool:
        """Count bytes of a file to be looked ahead at; return whether they may be."""
        read = self._read + sum(each.read for each in self._visits)
        if self._ahead_bytes + nbytes > max(_ALLOWED, int(_ALLOWED_SHARE * read)):
            return False
        self._ahead[name] = self._ahead.get(name, 0) + nbytes
        self._ahead_bytes += nbytes
        return True

    def next_of(self, name: str) -> str | None:
        """Return the file that comes after the last one of a run."""
        for run in self._runs:
            if run.last == name and self._is_believed(run):
                return next((each for each in run.coming if each not in self._ahead), None)
        return None

    def _outlook(self, run: _Run) -> Outlook:
        visits = list(run.visits)[1:]  # this one has read nothing yet
        whole = any(each.is_whole for each in visits)
        columns = self._columns_of(run.last)
        if not whole and not columns:
            return Outlook([])
        run.depth = min(max(1, 2 * run.depth), _SMALL_DEPTH if whole else _DEPTH)
        names = [each for each in run.coming[: run.depth] if each not in self._ahead]
        return Outlook(names, whole, frozenset(columns))

    def _is_believed(self, run: _Run) -> bool:
        return run.length >= 2 + max(0, self._begun - _FREE_RUNS)

    def _run_of(self, name: str) -> _Run | None:
        for run in self._runs:
            near = max(_NEAR, run.depth) if run.length > 1 else 1
            if name in run.coming[:near] or name in run.known:
                self._runs.remove(run)
                self._runs.insert(0, run)
                return run
        return None

    def _begin(self, name: str, visit: Visit, after: Callable[[str], Iterator[str]]) -> None:
        self._begun += 1
        run = _Run(name, list(islice(after(name), _NEAR)), deque([visit], maxlen=_NEAR))
        run.known.append(name)
        self._runs.insert(0, run)
        folder = name.rpartition("/")[0]
        beside = [each for each in self._runs if each.last.rpartition("/")[0] == folder]
        for each in beside[_RUNS_IN_FOLDER:]:  # at random, any file comes after one of many
            self._runs.remove(each)
        del self._runs[_RUNS:]

    def _columns_of(self, name: str) -> set[int]:
        folder = name.rpartition("/")[0]
        if folder not in self._columns and len(self._columns) >= _FOLDERS:
            self._columns.clear()
        return self._columns.setdefault(folder, set())

    def _note(self, visit: Visit) -> None:
        self._visits.append(visit)
        while len(self._visits) > _SMALL_DEPTH:
            self._read += self._visits.popleft().read
