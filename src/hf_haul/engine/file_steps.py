"""What is done to a file before its first part and after its last: look, claim, verify, publish.

All of it touches disk or network, none of it decides what comes next; see ``scheduler``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from hf_haul.config import Settings
from hf_haul.descriptors import descriptors
from hf_haul.digests import Digest, hash_of
from hf_haul.engine.part_fetcher import PartFetcher
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.transfer import Part, SupersededError, Transfer
from hf_haul.engine.verifier import Verifier
from hf_haul.errors import IntegrityError, SourceChangedError
from hf_haul.metrics import SMALL_FILE
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim, claim_new
from hf_haul.storage.flushing import flush_files
from hf_haul.storage.nodes import NodeDestination
from hf_haul.storage.placing import require_place
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.storage.sweeping import leftover_keys, sweep, sweep_partials_of_upstream
from hf_haul.task import Destination, DownloadTask, bears_out

__all__ = ["close_file", "flush_together", "open_file", "sweep_up", "verify_and_publish"]

logger = logging.getLogger(__name__)

#: What systems answer where there can be no file of a name: too long, not allowed, below a file, at a folder.
_NO_PLACE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)

#: Files in place that are flushed together at the most: their paths are in memory meanwhile.
_FLUSHED_AT_ONCE: Final = 10_000
#: Stands for the length of a file whose source does not say it.
_UNKNOWN: Final = 1 << 62


def open_file(
    run: QueueRun,
    transfer: Transfer,
    probing: Callable[[], AbstractContextManager[Part]],
    fetcher: PartFetcher,
    settings: Settings,
) -> None:
    """Look whether the file is in place; if not, learn its size and claim its staged file.

    Args:
        run: Its queue.
        transfer: The file; gets its staged file and its verifier.
        probing: Gives a part without bytes, whose cancel token ends whatever takes long.
        fetcher: Asks the source for a size that nobody told.
        settings: Whether to resume, to verify, and how to write.

    Raises:
        SupersededError: The file is in place.
        StagedElsewhereError: A living process is fetching it.
        StopRequestedError: The probe was stopped.
        TransferError: The source does not tell the size, or what is said to be empty is not.
        OSError: The folder cannot be written, or no file can be put there.
    """
    request, task = transfer.request, transfer.task
    destination = request.destination
    descriptors.measure()
    there = isinstance(destination, NodeDestination) or require_place(destination)
    if not request.fresh and _is_present(transfer, probing, there=there):
        raise SupersededError
    if task.size is None:
        with probing() as probe:
            size = fetcher.learn_size(probe)
            if size is None:
                _fetch_unsized(run, transfer, probe, fetcher)
            else:
                run.learn_size(task, size)
    elif task.size == 0 and task.digest is None:
        _require_empty(transfer, probing, fetcher)
    if transfer.staged is None:
        sequential = settings.write_mode == "sequential"
        staged = _claim_new(run, transfer, sequential=sequential)
        if staged is None:
            with probing() as probe:  # what somebody else left may have to be copied
                staged = _claim(
                    run,
                    transfer,
                    transfer.size,
                    probe,
                    sequential=sequential,
                    resume=settings.enable_resume and not request.fresh,
                    digest_known=task.digest is not None and settings.verify,
                )
        transfer.staged = staged
        if (
            not transfer.staged.done
            and not request.fresh
            and _may_be_here_by_now(run, transfer, probing, there=there)
        ):
            transfer.staged.delete()
            transfer.staged = None
            raise SupersededError
    if settings.verify and task.digest is not None:
        transfer.verifier = Verifier(task.digest, transfer.size)


def _claim_new(run: QueueRun, transfer: Transfer, *, sequential: bool) -> StagedFile | None:
    """Claim the staged file of which nobody has left anything; ``None`` if it takes a look at more."""
    destination = transfer.request.destination
    folder, key = destination.staging_dir, destination.staging_key
    orphans = run.orphans
    if run.waits.has(transfer.task.task_id) or (
        orphans and any(orphans.get((folder, each)) for each in (key, *destination.former_keys))
    ):
        return None
    return claim_new(folder, key, transfer.size, sequential=sequential, uri=transfer.request.remote.uri)


def _claim(run: QueueRun, transfer: Transfer, size: int, probe: Part, **how: bool) -> StagedFile:
    """Claim the staged file with :func:`claim`; report which process it waits for.

    Raises:
        StagedElsewhereError: A living process has the file.
        StopRequestedError: The probe was stopped.
        OSError: The folder cannot be written.
    """
    destination, task = transfer.request.destination, transfer.task
    folder, key, former = destination.staging_dir, destination.staging_key, destination.former_keys
    if run.waits.has(task.task_id):  # whom we waited for may have died, and left it under any name
        found = scan_orphans(folder)
        run.orphans.update({(folder, each): found.get(each, []) for each in (key, *former)})
    orphans = [path for each in (key, *former) for path in run.orphans.get((folder, each), ())]
    try:
        staged = claim(
            folder,
            key,
            size,
            orphans=orphans,
            former_keys=former,
            watch=run.watch,
            uri=transfer.request.remote.uri,
            check=probe.cancel_token.check,
            **how,
        )
    except StagedElsewhereError as error:
        run.waits.begin(task.task_id, error.wait_of(task.file_path))
        raise
    return staged


def _require_empty(
    transfer: Transfer, probing: Callable[[], AbstractContextManager[Part]], fetcher: PartFetcher
) -> None:
    """Ask the source of a file listed with 0 bytes for its size: some mean "unknown".

    Raises:
        SourceChangedError: It is not empty.
    """
    with probing() as probe:
        size = fetcher.learn_size(probe)
    if size:
        raise SourceChangedError(
            f"{transfer.task.file_path}: {transfer.source} says it has {size} bytes, expected 0"
        )


def _is_present(
    transfer: Transfer, probing: Callable[[], AbstractContextManager[Part]], *, there: bool
) -> bool:
    """Return whether the file is in place.

    Cancelling ends the look, as one at the bytes of a large file takes minutes.

    Args:
        transfer: The file.
        probing: Gives a part without bytes, whose cancel token ends the look.
        there: Whether anything is where the file goes.
    """
    destination = transfer.request.destination
    if not there:
        return destination.is_present()
    with probing() as probe:
        return destination.is_present(probe.cancel_token.check)


def _may_be_here_by_now(
    run: QueueRun,
    transfer: Transfer,
    probing: Callable[[], AbstractContextManager[Part]],
    *,
    there: bool,
) -> bool:
    """Return whether another process published the file between our first look and our claim.

    Where nobody was met, and a look at an older file could take long, it is not worth it.

    Args:
        run: Its queue.
        transfer: The file.
        probing: Gives a part without bytes, whose cancel token ends the look.
        there: Whether anything was where the file goes at the first look; it may be larger by far.
    """
    if run.waits.has(transfer.task.task_id):
        return _is_present(transfer, probing, there=os.path.lexists(transfer.request.destination))
    return transfer.size <= SMALL_FILE and _is_present(transfer, probing, there=there)


def _fetch_unsized(run: QueueRun, transfer: Transfer, probe: Part, fetcher: PartFetcher) -> None:
    """Fetch a file of unknown length in one stream; afterwards it is complete like any other."""
    staged = _claim(run, transfer, _UNKNOWN, probe, sequential=True, resume=False)
    if run.events is not None:
        run.events.started(transfer.task)
    try:
        size = fetcher.fetch_unsized(probe, staged)
    except BaseException:
        staged.delete()
        raise
    staged.size = size
    run.learn_size(transfer.task, size)
    transfer.staged = staged


def verify_and_publish(
    transfer: Transfer,
    settings: Settings,
    is_cancelled: Callable[[], bool] = lambda: False,
    on_verified: Callable[[Digest], object] = lambda _digest: None,
) -> bool:
    """Check the digest of a complete file and move it into place.

    Args:
        transfer: The file.
        settings: Whether its bytes have to be on the disk before it is in place.
        is_cancelled: Whether nobody wants the file any more; asked while somebody else is waited for.
        on_verified: Told of the digest, where it was computed and is right.

    Returns:
        Whether it is in place. ``False``: the digest was wrong for the first time, or with bytes of an
        earlier session or from other sources than its origin, and nothing is left of what may be at fault, so
        that it can be fetched anew.

    Raises:
        IntegrityError: The digest was wrong again.
        StagedLostError: The staged file is no longer ours.
        StopRequestedError: The verifier was stopped.
        OSError: The disk refuses.
    """
    staged, verifier = transfer.staged, transfer.verifier
    assert staged is not None
    if verifier is not None:
        verifier.catch_up(staged.frontier, staged.read_into, wait=True)
        verifier.check()
        actual = verifier.actual()
        if actual == verifier.digest.value:
            on_verified(verifier.digest)
            transfer.sources.find_liars(staged.read_into, verifier.check)
        elif _is_suspect(transfer, verifier):
            return False
        elif not _is_borne_out(transfer, verifier):
            error = IntegrityError(transfer.task.file_path, verifier.digest.value, actual, staged.resumed)
            resumed = bool(staged.resumed)  # what an earlier session left may be at fault, and not the source
            transfer.mismatches += not resumed
            if transfer.mismatches > 1 or not transfer.size:  # of nothing, nothing can be fetched anew
                staged.delete()
                raise error
            logger.warning("%s; fetching it again%s", error.finding, "" if resumed else " in one stream")
            staged.forget()
            verifier.restart()
            return False
    # Small files are flushed together, before their queue is said to be done.
    sealed: Path = staged.seal(durable=settings.durable and transfer.size > SMALL_FILE)
    destination = transfer.request.destination
    try:
        if isinstance(destination, NodeDestination):
            destination.publish(sealed, is_cancelled)
        else:
            destination.publish(sealed)
    except OSError as error:
        if _is_about(error, sealed) and not os.path.lexists(sealed):
            raise StagedLostError(f"{sealed} was taken by another process") from error
        if error.errno in _NO_PLACE:  # nor will there ever be one, and nobody could use it
            with contextlib.suppress(OSError):
                os.unlink(sealed)
        else:
            staged.unseal()
        raise
    return True


def _is_suspect(transfer: Transfer, verifier: Verifier) -> bool:
    """Return whether another source may have sent what is wrong; drop what may be."""
    staged, sources = transfer.staged, transfer.sources
    assert staged is not None
    if not sources.suspects():
        return False
    logger.warning(
        "%s: its digest is wrong; what came from %s is fetched again",
        transfer.task.file_path, " and ".join(each.name for each in sources.suspects()),
    )  # fmt: skip
    staged.forget(sources.suspect(staged.read_into, staged.size, verifier.check))
    verifier.restart()
    return True


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error says that ``path`` itself is missing, and not something else."""
    return isinstance(error, FileNotFoundError) and error.filename == os.fspath(path)


def _is_borne_out(transfer: Transfer, verifier: Verifier) -> bool:
    staged = transfer.staged
    assert staged is not None

    def hex_digest(algorithm: str) -> str:
        return hash_of(staged.read_into, staged.size, algorithm, verifier.check)

    return bears_out(transfer.request.remote, hex_digest)


def flush_together(run: QueueRun) -> None:
    """Flush the files to the disk that a queue has put in place; one that cannot be flushed has failed.

    Such a file is removed: it would be taken for complete, whatever of it there is after a power failure.
    Who has cancelled a queue does not wait for the disk, and is not told that anything is done.
    """
    if run.queue.cancelled:
        return
    waiting = iter(run.unflushed)
    while some := {_place(run, task): task for task in islice(waiting, _FLUSHED_AT_ONCE)}:
        for path, error in flush_files(some).items():
            logger.warning("%s could not be flushed to the disk: %s", path, error)
            with contextlib.suppress(OSError):
                os.unlink(os.path.realpath(path))
            run.fail_published(some[path], error)


def _place(run: QueueRun, task: DownloadTask) -> str:
    return os.fspath(run.planned.request_of(task).destination)


def sweep_up(run: QueueRun) -> None:
    """Remove what dead processes left of the files of a queue that are in place, of any version and name."""
    left = {folder: leftover_keys(folder) for folder in run.planned.staging_dirs()}
    if not any(left.values()):
        return
    found: dict[Path, tuple[dict[str, int], dict[str, Destination]]] = {}
    for task in run.queue.completed:
        destination = run.planned.request_of(task).destination
        keys = left.get(destination.staging_dir)
        if not keys:
            continue
        sizes, places = found.setdefault(destination.staging_dir, ({}, {}))
        own = [each for each in (destination.staging_key, *destination.former_keys) if each in keys]
        if not own and any(map(destination.replaces, keys)):
            own = [destination.staging_key]
        for key in own:
            sizes[key], places[key] = task.size or 0, destination
    for folder, (sizes, places) in found.items():
        sweep(folder, sizes, partial(_any_replaces, list(places.values())))
        sweep_partials_of_upstream(folder, places)


def _any_replaces(places: Sequence[Destination], key: str) -> bool:
    return any(place.replaces(key) for place in places)


def close_file(transfer: Transfer) -> None:
    """Let go of a file that will not be finished now; what was fetched stays for a resume."""
    if transfer.staged is not None:
        transfer.staged.close()
