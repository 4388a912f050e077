"""Staged files that other processes left: whose they are, and how this process takes them over.

The file is this long because its first lines say why taking over is safe, which the code cannot say.

A process claims a content by creating ``<key>.haul.incomplete`` exclusively, which needs no lock. A second
process that finds the file asks ``ownership`` whether its owner is alive:

* The owner is dead: the second process *adopts* the file by renaming it to a private name,
  ``<key>.<digits>.haul.incomplete``; of several processes only one succeeds. Until the header names the new
  owner, the process id in the digits, and a lock, tell others that the file is taken.
* Nothing proves that the owner is dead, or it lives and does nothing because it was stopped: only the bytes
  are copied. When the owner wakes up, it writes into a file that nobody will publish.

Before a staged file is published, it is renamed to a private name and its identity is compared. A process
that is killed between two of these steps leaves a private name behind: the next run looks for those, keeps
the file that holds the most, and removes the others.

Several users may share the folder. So no name in it is followed as a link, a header is checked before it is
used, and a file that somebody else could go on writing into (another user's, or one with a second name) is
copied and never adopted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hf_haul.config import DEFAULT_TIMINGS
from hf_haul.descriptors import descriptors
from hf_haul.errors import HaulError
from hf_haul.forks import call_after_fork
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage.file_names import PASSING
from hf_haul.storage.journal import read_at, read_header, read_records
from hf_haul.storage.left_file import LeftFile, inspect_file, judge_file
from hf_haul.storage.ownership import (
    Owner,
    OwnerWatch,
    current_owner,
    is_running,
    program_of,
    try_lock,
)
from hf_haul.storage.regular_files import NEW_FILE, bytes_on_disk
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import (
    OFFSET_SUFFIX,
    SEALED_SUFFIX,
    SEQUENTIAL_SUFFIX,
    giver_of,
    kind_of,
    move_back,
    private_name,
)
from hf_haul.waits import Wait, WaitReason

__all__ = ["Adopter", "StagedElsewhereError"]

logger = logging.getLogger(__name__)

#: Seconds that a living process gets to publish a complete file.
_PUBLICATION: Final = 10.0
#: Bytes copied in one step.
_COPY_STEP: Final = 1 << 20
#: Folders and keys of which a thread of this process is taking over what is left.
_taking_over: Final[set[tuple[Path, str]]] = set()


_taking_over_lock = threading.Lock()


def _take_over_nothing() -> None:
    """Forget, in a forked child, the takeovers of the parent's threads."""
    global _taking_over_lock
    _taking_over_lock = threading.Lock()
    _taking_over.clear()


call_after_fork(_take_over_nothing)


def _is_this_process(owner: Owner) -> bool:
    return owner == current_owner()


class StagedElsewhereError(HaulError):
    """Another living process is fetching this file, or another download of this one.

    Attributes:
        owner: Who, as far as known.
        program: What that process runs, where we can see it.
        who: The same in words.
    """

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.owner = owner
        self.program = None if owner is None else program_of(owner)
        self.who = self._in_words()
        super().__init__(f"{path.name} is being fetched by {self.who}")

    def _in_words(self) -> str:
        if self.owner is None:
            return "another process"
        if _is_this_process(self.owner):  # two files of one content, or two downloads of one file
            return "another download of this process"
        named = f" ({self.program})" if self.program else ""
        return f"process {self.owner.pid}{named} on {self.owner.host}"

    def wait_of(self, path: str) -> Wait:
        """Return what waiting for that process is for people.

        Args:
            path: The file, as its repository names it.
        """
        return Wait(
            WaitReason.ANOTHER_PROCESS,
            f"{path}: waiting for {self.who}, which is fetching it",
            host=self.owner.host if self.owner else None,
            path=path,
            pid=self.owner.pid if self.owner else None,
            process=self.program,
        )


class Adopter:
    """Takes over what dead owners left of one key.

    A file becomes ours only if nobody else can write into it: it is of our own user, and has one name. Of any
    other file the bytes are copied.

    Attributes:
        refused: What we have no right to, or what is no file.
    """

    def __init__(
        self,
        target: Path,
        key: str,
        size: int,
        *,
        former_keys: Sequence[str] = (),
        sequential: bool = False,
        resume: bool = True,
        digest_known: bool = False,
        watch: OwnerWatch | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._key = key
        self._keys = (key, *former_keys)
        self._size = size
        self._sequential = sequential
        self._resume = resume
        self._digest_known = digest_known
        self._watch = watch
        self._check = check
        self.refused: set[Path] = set()

    def best_of(self, paths: list[Path]) -> StagedFile | None:
        """Adopt the one of ``paths`` that holds the most, and remove the others.

        Raises:
            StagedElsewhereError: One of them has a living owner.
        """
        if not paths:
            return None
        with _alone(self._target.parent, self._key):
            return self._best_of(self._of_one_name_each(paths))

    def remove(self, paths: list[Path]) -> None:
        """Remove those whose owner is gone; the others stay."""
        with _alone(self._target.parent, self._key):
            for path in self._of_one_name_each(paths):
                with contextlib.suppress(StagedElsewhereError, OSError):  # somebody wants it; or no rights
                    self._require_not_just_named(path)
                    self._take(path).remove()

    def remove_one(self, path: Path, may_go: Callable[[LeftFile], bool]) -> int:
        """Remove a file whose owner is gone; taken over first, it is adopted by nobody else meanwhile.

        Args:
            path: The file.
            may_go: Asked once it is ours; it gets its name back if not.

        Returns:
            Bytes on the disk that are free now.

        Raises:
            StagedElsewhereError: It has a living owner, or one that may live, or another process takes it.
            FileNotFoundError: It is gone.
            OSError: It may not be removed.
        """
        with _alone(self._target.parent, self._key):
            self._require_not_just_named(path)
            left = self._take_locked(path)
            try:
                if not may_go(left):
                    raise StagedElsewhereError(path, left.owner)
                status = os.fstat(left.fd)
            except BaseException:
                left.close()
                move_back(left.path, path)
                raise
            if left.remove():
                return 0 if status.st_nlink > 1 else bytes_on_disk(status)
            move_back(left.path, path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    def _of_one_name_each(self, paths: list[Path]) -> list[Path]:
        """Return ``paths`` without second names of one file, which a kill can leave, and remove those."""
        seen: set[tuple[int, int]] = set()
        kept = []
        for path in sorted(paths, key=lambda each: each != self._target):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) in seen:
                    os.unlink(path)
                else:
                    seen.add((status.st_dev, status.st_ino))
                    kept.append(path)
        return kept

    def _best_of(self, paths: list[Path]) -> StagedFile | None:
        adopted: list[StagedFile] = []
        try:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):  # published, or adopted, meanwhile
                    try:
                        staged = self._adopt(path)
                    except (PermissionError, IsADirectoryError) as error:
                        # Another user's, in a cache that several share, or no file at all: go on without it.
                        logger.info("%s cannot be taken over: %s", path, error)
                        self.refused.add(path)
                        continue
                    if staged is not None:
                        adopted.append(staged)
                    if len(adopted) > 1:
                        adopted.sort(key=lambda each: each.done, reverse=True)
                        adopted[1].delete()
                        del adopted[1]
        except BaseException:
            for each in adopted:
                each.close()
            raise
        return adopted[0] if adopted else None

    def _adopt(self, path: Path) -> StagedFile | None:
        """Take over ``path`` if its owner is gone; ``None`` if it was of no use, and was removed."""
        self._require_not_just_named(path)
        left = self._take(path)
        try:
            return self._take_over(left)
        except BaseException:
            left.close()
            raise

    def _take_over(self, left: LeftFile) -> StagedFile | None:
        """Make a file that was taken ours; ``None`` if it was of no use, and was removed."""
        if left.sealed:
            return self._unseal(left)
        if left.sequential != self._sequential or (left.header is None and not left.sequential):
            # Of the other kind; or killed before its header was written: nothing in it can be told from a
            # hole.
            left.remove()
            return None
        same_boot = left.owner is not None and left.owner.boot == current_owner().boot
        trust = self._resume and (self._digest_known or (same_boot and not left.shared))
        if left.only_to_copy:
            if trust:
                return self._copy(left, self._recorded_in)
            left.remove()
            return None
        with self._staged(left) as staged:
            staged.former_keys = self._keys[1:]
            staged.load(trust=trust)
            staged.unproven = not same_boot
            staged.take_over()
            self._require_ours(staged)
        return staged

    @contextlib.contextmanager
    def _staged(self, left: LeftFile) -> Iterator[StagedFile]:
        """Make a staged file of a file that is left, and close it if what is done with it then fails.

        As long as it is open here, its owner is alive: the next attempt would wait for this one.
        """
        staged = StagedFile(left.path, self._key, self._size, left.fd, sequential=self._sequential)
        left.fd = -1  # it is closed by the staged file from here on
        try:
            yield staged
        except BaseException:
            staged.let_go()  # and no more: what an error came from reading may well be there
            raise

    def _recorded_in(self, left: LeftFile) -> RangeSet:
        """Return the bytes that a file holds which is only copied from."""
        if left.header is not None:
            return read_records(left.fd, self._size, left.header.nonce)[0]
        length = min(os.fstat(left.fd).st_size, self._size)
        return RangeSet([ByteRange(0, length)] if length else [])

    def _require_not_just_named(self, path: Path) -> None:
        """Refuse a file that another living process renamed a moment ago.

        It may be about to publish the file; or it has not said yet that it owns it: the header still names
        the dead owner, so that two who look for orphans at the same moment would both take the file for
        theirs. Where we cannot see that process, it finds its file gone.

        Raises:
            StagedElsewhereError: The name is new, and the process that gave it is alive.
        """
        by = giver_of(path.name)
        if by is None or by == os.getpid():
            return
        timings = DEFAULT_TIMINGS if self._watch is None else self._watch.timings
        time_to_act = _PUBLICATION if path.name.endswith(SEALED_SUFFIX) else timings.takeover
        status = os.lstat(path)
        if time.time() - status.st_ctime < time_to_act and is_running(by) and not self._is_asleep(status):
            raise StagedElsewhereError(path, replace(current_owner(), pid=by, started=""))

    def _is_asleep(self, status: os.stat_result) -> bool:
        return self._watch is not None and self._watch.is_asleep(status)

    def _require_ours(self, staged: StagedFile) -> None:
        """Refuse a file that another process took over meanwhile.

        Raises:
            StagedElsewhereError: Another process gave the file a name of its own meanwhile.
        """
        if not staged.is_ours():
            raise StagedElsewhereError(staged.path, None)

    def _unseal(self, left: LeftFile) -> StagedFile | None:
        """Take over a complete file that was never published; its name says so until its new journal does."""
        length = os.fstat(left.fd).st_size
        # Killed between the rename and the cut, it still has its journal, which says the same.
        if length < self._size or not (self._digest_known and self._resume):
            left.remove()
            return None
        if left.shared:
            return self._copy(left, lambda _left: RangeSet([ByteRange(0, self._size)] if self._size else []))
        os.ftruncate(left.fd, self._size)
        with self._staged(left) as staged:
            staged.take_over()
            self._require_ours(staged)
            staged.record(0, self._size)
            staged.resumed = self._size
            staged.unproven = True
            with contextlib.suppress(PermissionError):  # Windows renames no open files
                path = self.private_name()
                os.rename(left.path, path)
                staged.path = path
        return staged

    def _take(self, path: Path) -> LeftFile:
        """Rename a file whose owner is gone to a private name, so that no other process takes it.

        Raises:
            StagedElsewhereError: It has a living owner, or another process takes it.
            PermissionError: It is of no use to us.
        """
        first = self._look(path, path)
        first.close()  # Windows renames no open files
        private = self._private(kind_of(path.name))
        try:
            _rename(path, private)  # succeeds for one process only
        except (PermissionError, StagedElsewhereError):
            if first.only_to_copy:  # that takes no more than to read it
                return self._look(path, path)
            raise
        left: LeftFile | None = None
        try:
            # Somebody may have claimed or adopted the name between our look and our rename: look again.
            left = self._look(private, path)
            if left.status != "stale" and not try_lock(left.fd):
                # Another adopter, from where process ids are others.
                if not self._is_asleep(os.fstat(left.fd)):
                    raise StagedElsewhereError(private, None)
                left.status = "stale"
        except BaseException as error:
            if left is not None:
                left.close()
            if isinstance(error, StagedElsewhereError):
                move_back(private, path)
            raise
        return left

    def _take_locked(self, path: Path) -> LeftFile:
        """Take a file as :meth:`_take` does, but lock it before it is renamed.

        Whoever has adopted it since it was looked at, and is about to publish it, so never misses it. Where
        locks lie, it may for a moment, and goes on when the file has its name back.

        Raises:
            StagedElsewhereError: It has a living owner, or another process takes it.
            OSError: It may not be renamed.
        """
        if (
            sys.platform == "win32"
        ):  # pragma: no cover - open files cannot be renamed there, and locks there are none
            return self._take(path)
        left = self._look(path, path, lock=True)
        try:
            if not _leads_to(path, left.fd):  # removed before we locked it, and begun anew
                raise StagedElsewhereError(path, None)
            private = self._private(kind_of(path.name))
            _rename(path, private)
            again = judge_file(private, path, left.fd, self._size, self._keys, self._watch)
            if again.status == "alive" or not _leads_to(private, left.fd):
                move_back(private, path)
                raise StagedElsewhereError(path, again.owner)
            return again
        except BaseException:
            left.close()
            raise

    def _look(self, path: Path, name: Path, *, lock: bool = False) -> LeftFile:
        """Open a file and judge its owner.

        Args:
            path: The file.
            name: The name under which it was found.
            lock: Lock it first.

        Raises:
            StagedElsewhereError: It has a living owner.
            PermissionError: It may not be read, or is no regular file.
        """
        left = inspect_file(
            path, self._size, self._keys, name=name, watch=self._watch, lock=lock, check=self._check
        )
        try:
            if left.status == "alive":
                raise StagedElsewhereError(path, left.owner)
            left.shared = _is_shared(os.fstat(left.fd), path.parent)
            return left
        except BaseException:
            left.close()
            raise

    def _copy(self, left: LeftFile, held_by: Callable[[LeftFile], RangeSet]) -> StagedFile | None:
        """Copy what a file holds into a new one, and remove the old.

        Its owner may only be asleep on another host. If it wakes up, it writes into the removed file.

        Args:
            left: The file.
            held_by: Tells what it holds.

        Returns:
            ``None`` if that owner woke up meanwhile and began anew.
        """
        fd = -1
        new: StagedFile | None = None
        try:
            path = self.private_name()
            fd = descriptors.retry_on_shortage(lambda: os.open(path, NEW_FILE, 0o666), self._check, own=1)
            new = StagedFile(path, self._key, self._size, fd, sequential=self._sequential)
            new.version = None if left.header is None else left.header.version
            new.take_over()
            for run in list(held_by(left)):
                for at in range(run.start, run.stop, _COPY_STEP):
                    self._check()
                    data = read_at(left.fd, at, min(_COPY_STEP, run.stop - at))
                    new.write(at, memoryview(data))
                    new.record(at, at + len(data))
            new.resumed = new.done
            new.unproven = True
            now = None if left.header is None else read_header(left.fd, self._size, self._keys)
        except BaseException:
            if new is not None:
                new.delete()
            elif fd >= 0:
                os.close(fd)
                os.unlink(path)
            left.close()
            move_back(left.path, left.name)
            raise
        if left.status == "stale":
            who = f"process {left.owner.pid} on {left.owner.host}" if left.owner else "another process"
            logger.info("%s: %s has not written for long; continuing with a copy", left.name.name, who)
        if left.header is not None and (now is None or now.nonce != left.header.nonce):
            new.delete()
            left.close()
            move_back(left.path, left.name)
            return None
        left.remove()
        return new

    def private_name(self) -> Path:
        """Return a new private name for the staged file."""
        return self._private(SEQUENTIAL_SUFFIX if self._sequential else OFFSET_SUFFIX)

    def _private(self, kind: str) -> Path:
        return private_name(self._target.parent, self._key, kind)


def _leads_to(path: Path, fd: int) -> bool:
    """Return whether a name leads to an open file.

    Raises:
        FileNotFoundError: It leads to nothing.
    """
    return os.path.samestat(os.lstat(path), os.fstat(fd))


def _is_shared(status: os.stat_result, folder: Path) -> bool:
    """Return whether others could go on writing into a file after we took it over: it is not ours alone."""
    if status.st_nlink > 1:
        return True
    if sys.platform == "win32" or status.st_uid == os.geteuid():
        return False
    # Some file systems tell of one owner, whoever makes a file.
    try:
        probe = private_name(folder, PASSING, OFFSET_SUFFIX)
        fd = descriptors.retry_on_shortage(lambda: os.open(probe, NEW_FILE, 0o600), own=1)
    except OSError:
        return True
    try:
        os.unlink(probe)
        return os.fstat(fd).st_uid != status.st_uid
    finally:
        os.close(fd)


@contextlib.contextmanager
def _alone(directory: Path, key: str) -> Iterator[None]:
    """Let one thread of this process at a time take over what is left of a key.

    Raises:
        StagedElsewhereError: Another thread is about it.
    """
    with _taking_over_lock:
        if (directory, key) in _taking_over:
            raise StagedElsewhereError(directory / key, current_owner())
        _taking_over.add((directory, key))
    try:
        yield
    finally:
        with _taking_over_lock:
            _taking_over.discard((directory, key))


def _rename(path: Path, private: Path) -> None:
    try:
        os.rename(path, private)
    except PermissionError as error:
        if sys.platform == "win32":  # pragma: no cover - somebody has it open
            raise StagedElsewhereError(path, None) from error
        raise
