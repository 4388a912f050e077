"""Opens the staged file of one content for this process: a new one, or what a dead owner left."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_haul.descriptors import descriptors
from hf_haul.storage.adoption import Adopter, StagedElsewhereError
from hf_haul.storage.ownership import OwnerWatch
from hf_haul.storage.regular_files import NEW_FILE
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import OFFSET_SUFFIX, SEQUENTIAL_SUFFIX, scan_orphans

__all__ = ["claim", "claim_new"]

logger = logging.getLogger(__name__)


def claim(
    directory: Path,
    key: str,
    size: int,
    *,
    sequential: bool = False,
    resume: bool = True,
    digest_known: bool = True,
    orphans: list[Path] | None = None,
    former_keys: Sequence[str] = (),
    watch: OwnerWatch | None = None,
    uri: str = "",
    again: bool = False,
    check: Callable[[], None] = lambda: None,
) -> StagedFile:
    """Open the staged file of ``key`` for this process: a new one, or a dead owner's.

    Args:
        directory: Where staged files live; created if missing.
        key: Name of the content, such as its etag: another content must have another key.
        size: Bytes of the whole file.
        sequential: Append in order only, without a journal. It can be resumed all the same: without that, who
            goes on after a kill half-way takes 2.01 times the seconds (2.01 to 2.01) and bytes (``python -m
            tests.benchmarks --only mechanisms --row sequential-resume``).
        resume: Whether earlier bytes may be kept; if not, they are dropped.
        digest_known: Whether a digest will be checked at the end; without one, bytes that survived a
            reboot are not trusted.
        orphans: What :func:`scan_orphans` found for this key; all but the best of them are removed.
        former_keys: Other keys that earlier versions of hf-haul gave the same content; their files count as
            its own.
        watch: Remembers from call to call what living owners do; the bytes of one that is asleep are copied.
            Without it they never are.
        uri: What people call the file, noted for whoever lists what is partial.
        again: Whether this process had it a moment ago, so that what it holds is no news.
        check: Called now and then while bytes are copied; raises to end it.

    Raises:
        StagedElsewhereError: A living process has it.
        DiskFullError: The disk is full.
        OSError: The folder cannot be written.
    """
    target = directory / (key + (SEQUENTIAL_SUFFIX if sequential else OFFSET_SUFFIX))
    left = [target, *(path for path in orphans if path != target)] if orphans else []
    left = [path for path in left if not path.is_symlink()]  # writing through one would end up anywhere
    adopter = Adopter(
        target,
        key,
        size,
        former_keys=former_keys,
        sequential=sequential,
        resume=resume,
        digest_known=digest_known,
        watch=watch,
        check=check,
    )
    for _ in range(100):
        staged = adopter.best_of(left)
        if staged is not None:
            try:
                staged.describe(uri)
                _rename_to_target(staged, target, keep=resume)
            except BaseException:
                staged.close()
                raise
            level = logging.DEBUG if again else logging.INFO
            logger.log(level, "resuming %s: %d of %d bytes are here", key, staged.resumed, size)
            return staged
        if left:  # renamed under our eyes: see what became of it
            found = scan_orphans(directory)
            left = [path for each in (key, *former_keys) for path in found.get(each, ())]
            left = [path for path in left if path not in adopter.refused]
            if left:
                continue
        try:
            return _create(target, key, size, sequential=sequential, uri=uri, check=check)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if target.is_symlink() or target in adopter.refused:  # neither to be followed nor removed
                logger.info("%s is not a file of ours; using another name", target)
                target = adopter.private_name()
            else:
                left = [target]
    raise StagedElsewhereError(target, None)


def claim_new(
    directory: Path, key: str, size: int, *, sequential: bool = False, uri: str = ""
) -> StagedFile | None:
    """Open a new staged file, where that takes no more than to create it, as for nearly all files.

    Args:
        directory: Where staged files live.
        key: Name of the content.
        size: Bytes of the whole file.
        sequential: Append in order only, without a journal.
        uri: What people call the file.

    Returns:
        ``None`` if anything of that name is there, or it cannot be created: :func:`claim` is for that.

    Raises:
        DiskFullError: The disk is full.
        OSError: The disk refuses.
    """
    place = f"{directory}{os.sep}{key}{SEQUENTIAL_SUFFIX if sequential else OFFSET_SUFFIX}"
    try:
        fd = os.open(place, NEW_FILE, 0o666)
    except OSError:
        return None
    return _begin(place, key, size, fd, sequential=sequential, uri=uri)


def _create(
    path: Path, key: str, size: int, *, sequential: bool, uri: str, check: Callable[[], None]
) -> StagedFile:
    """Create a staged file.

    Raises:
        FileExistsError: Something of that name is there already.
        FileNotFoundError: The folder is not there.
        OSError: The folder cannot be written.
    """
    fd = descriptors.retry_on_shortage(lambda: os.open(path, NEW_FILE, 0o666), check)
    return _begin(path, key, size, fd, sequential=sequential, uri=uri)


def _begin(path: str | Path, key: str, size: int, fd: int, *, sequential: bool, uri: str) -> StagedFile:
    try:
        staged = StagedFile(path, key, size, fd, sequential=sequential)
    except BaseException:  # without memory, for instance; nobody else knows of the file
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    staged.uri = uri
    try:
        staged.take_over()
    except BaseException:
        staged.delete()
        raise
    return staged


def _rename_to_target(staged: StagedFile, target: Path, *, keep: bool) -> None:
    """Rename an adopted file to ``target``, if that name is free, so that other processes find it there."""
    if not keep:
        staged.forget()
    if staged.path != target:
        try:
            os.link(staged.path, target)
        except OSError:
            return  # taken meanwhile, or no hard links here: the private name serves as well
        with contextlib.suppress(OSError):
            os.unlink(staged.path)
        staged.path = target
