"""Files that are being fetched from another Hub: each once, for all who ask, who get its bytes as they come.

A file is fetched by the manager, over several connections, resumable, into the Hub cache, and gets its name
there only when its digest was right. Who waits reads it from the staged file meanwhile. Nobody gets its last
byte before it was verified, and who has bytes of it that turned out to be wrong gets no more: of a wrong file
there is no complete copy anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, Final

from hf_haul.engine.events import DownloadEvent
from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import (
    DiskFullError,
    DownloadCancelledError,
    HttpStatusError,
    IntegrityError,
    ServerBusyError,
    TransferError,
)
from hf_haul.failures import describe
from hf_haul.hub.metadata import ListedFile, metadata_from_listing
from hf_haul.hub.upstream_cache import cache_folder
from hf_haul.lab.kept import Kept
from hf_haul.lab.lookups import LookUps, away, refused
from hf_haul.lab.silence import PATIENCE, Silence
from hf_haul.localhub.arriving import Arrival
from hf_haul.localhub.replies import Refusal
from hf_haul.manager import ParallelDownloadManager
from hf_haul.redaction import redact_text
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.task import FileRequest

__all__ = ["Fetch", "Fetches", "Stream"]

logger = logging.getLogger(__name__)

_LOOK_EVERY: Final = 0.005  # seconds between two looks at a file that grows
_LOOK_SELDOM: Final = 0.05  # the same while nothing comes


class Fetch:
    """One file that is being fetched, or was.

    Attributes:
        repo_type: The type of its repository.
        repo_id: Its repository.
        commit: The commit at which it was asked for.
        name: Its path there.
        destination: Where it will be.
        size: Bytes.
        handle: The manager's.
        waiting: How many answers wait for its bytes, or send them.
        began: When, in seconds since 1970.
        asked_at: When, on the monotonic clock.
    """

    def __init__(
        self, repo_type: str, repo_id: str, name: str, destination: BlobDestination, handle: DownloadHandle, base: str
    ) -> None:  # fmt: skip
        self.repo_type = repo_type
        self.repo_id = repo_id
        self.commit = destination.commit
        self.name = name
        self.destination = destination
        self.size = destination.size or 0
        self.handle = handle
        self.waiting = 0
        self.began = time.time()
        self.asked_at = time.monotonic()
        self._base = base

    @property
    def staged(self) -> StagedFile | None:
        """What is on disk of it so far; ``None`` before it was begun, and once it is in place."""
        return next(iter(self.handle.staged_files().values()), None)

    @property
    def key(self) -> str:
        """What names it among other fetches: where it will be."""
        return str(self.destination.path)

    @property
    def came(self) -> bool:
        """Whether any bytes came over the network."""
        return self.handle.progress().bytes_transferred > 0

    def away(self) -> Refusal:
        """Return the answer while the other Hub does not give it."""
        return away(self._base)

    def outcome(self, *, private: bool = False) -> Refusal | None:
        """Return why it cannot be had, once it is over; ``None`` if it is in place.

        Args:
            private: Whether the other Hub is asked with a token.
        """
        errors = self.handle.errors()
        if not errors:
            return None
        error = errors[0][1]
        what = f"{self.name} of {self.repo_id}"
        if isinstance(error, HttpStatusError) and error.status in {401, 403, 404}:
            return refused(self.repo_id, error.status, error.headers.get("X-Error-Code"), private=private)
        if isinstance(error, DownloadCancelledError):
            return Refusal(
                503, f"fetching {what} was cancelled here", "FetchCancelled", {"Retry-After": "30"}
            )
        if isinstance(error, DiskFullError):
            return Refusal(507, f"no space is left here for {what}", "DiskFull")
        if isinstance(error, IntegrityError):
            return Refusal(502, f"the upstream sent other bytes of {what} than it lists", "UpstreamWrong")
        said = redact_text(describe(error).text).splitlines()[0]
        logger.warning("cannot fetch %s: %s", what, said)
        refusal = self.away()
        return Refusal(refusal.status, f"{what} could not be fetched: {said}", refusal.code, refusal.headers)


class Stream(Arrival):
    """One answer's view of a fetch. It lives in the hub's event loop.

    Args:
        fetch: The fetch.
        private: See `Fetch.outcome`.
        hold: Told by how many more, or fewer, answers need the file.
        in_doubt: Whether the other Hub did not answer lately, so that nobody waits long for the first byte.
    """

    def __init__(
        self, fetch: Fetch, *, private: bool, hold: Callable[[int], None], in_doubt: Callable[[], bool]
    ) -> None:
        self._fetch = fetch
        self._hold = hold
        self._private = private
        self._in_doubt = in_doubt
        self._began = time.monotonic()
        self._file: BinaryIO | None = None
        self._from: tuple[StagedFile | None, int] = (None, 0)
        self._sent = self._complete = False
        fetch.waiting += 1
        self._counted = True
        hold(1)

    async def ready(self, start: int, stop: int) -> tuple[BinaryIO, int]:
        """Wait until bytes from ``start`` on are on disk; see `Arrival`."""
        pause = _LOOK_EVERY
        while not self._complete:
            over = self._fetch.handle.is_over
            upto = self._look_at_end(stop) if over else self._look(start, stop)
            if over or upto > start:
                break
            if time.monotonic() - self._began > PATIENCE and self._in_doubt() and not self._fetch.came:
                raise self._fetch.away()  # it goes on for who asks next
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, _LOOK_SELDOM)
        assert self._file is not None
        self._sent = True
        return self._file, stop if self._complete else upto

    def _look(self, start: int, stop: int) -> int:
        """Return up to where bytes from ``start`` on may be sent already."""
        staged = self._fetch.staged
        if staged is None:
            return start
        if self._file is None:
            with contextlib.suppress(OSError, StagedLostError):  # it has just got its final name
                self._file = staged.open_again()
                self._from = (staged, staged.withdrawals)
        if self._file is None:
            return start
        self._require_same(staged)
        most = min(stop, self._fetch.size - 1)  # the last byte once all are known to be right
        if start >= most:
            return start
        gaps = staged.missing(start, most)
        return gaps[0].start if gaps else most

    def _require_same(self, staged: StagedFile) -> None:
        if self._from == (staged, staged.withdrawals):
            return
        if self._sent:
            raise Refusal(502, "the upstream's bytes were wrong; they are fetched anew", "UpstreamWrong")
        self._forget()

    def _look_at_end(self, stop: int) -> int:
        """Return ``stop``, if all is in place and what was sent is of it.

        Raises:
            Refusal: It could not be fetched, or was replaced.
        """
        refusal = self._fetch.outcome(private=self._private)
        if refusal is not None:
            raise refusal
        try:
            placed = open(self._fetch.destination.path, "rb")  # noqa: SIM115  closed by close()
        except OSError as error:
            raise away("the cache of this server") from error
        staged, withdrawals = self._from
        same = self._file is not None and os.path.sameopenfile(self._file.fileno(), placed.fileno())
        if self._sent and not (same and (staged is None or staged.withdrawals == withdrawals)):
            placed.close()
            raise Refusal(502, "the file was fetched anew meanwhile", "UpstreamWrong")
        if same:
            placed.close()
        else:
            self._forget()
            self._file, self._from = placed, (None, 0)
        self._complete = True
        return stop

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file."""
        self._forget()
        if self._counted:
            self._counted = False
            self._fetch.waiting -= 1
            self._hold(-1)


class Fetches:
    """All files that are being fetched. Safe for threads: ``_lock`` guards the table.

    Args:
        manager: Fetches them.
        lookups: Knows the other Hub.
        cache_dir: The Hub cache.
        kept: Makes room for what is fetched, and remembers it.
    """

    def __init__(
        self,
        manager: ParallelDownloadManager,
        lookups: LookUps,
        cache_dir: str,
        kept: Kept,
    ) -> None:
        self.manager = manager
        self._lookups = lookups
        self._cache_dir = cache_dir
        self._kept = kept
        self._lock = threading.Lock()
        self._submitting = threading.Lock()  # held while the disk is looked at; only who submits waits for it
        self._fetches: dict[str, Fetch] = {}  # by where they will be
        self._by_queue: dict[str, Fetch] = {}
        self._early: set[str] = set()  # queues that were over before they were noted
        self.begun = self.failed = 0
        self._silence = Silence()
        self._unsubscribe = manager.events.subscribe(self._note)

    def __iter__(self) -> Iterator[Fetch]:
        with self._lock:
            return iter([fetch for fetch in self._fetches.values() if not fetch.handle.is_over])

    def fetch(self, repo_type: str, repo_id: str, commit: str, name: str, listed: ListedFile) -> Fetch:
        """Begin to fetch a file, or return the fetch that is under way.

        Raises:
            Refusal: It cannot be had: it will not fit, nobody knows its digest, or the other Hub did not
                give it a moment ago.
        """
        repository = self._lookups.repository(repo_type, repo_id)
        metadata = metadata_from_listing(commit, listed)
        if metadata is None or metadata.size is None:
            raise Refusal(
                404, f"{name} of {repo_id} is listed without a digest, and is not fetched", "EntryNotServed"
            )
        folder = cache_folder(repository, self._cache_dir)
        destination = BlobDestination(folder, commit, name, metadata.etag, metadata.size)
        request = FileRequest(repository.remote_file(name, metadata), destination)
        with self._submitting:
            under_way = self._find(str(destination.path))
            if under_way is not None:
                return under_way
            if self._silence.holds(str(destination.path)):
                raise away(self._lookups.base)
            self._silence.try_again(str(destination.path))
            root = os.path.basename(folder.root)
            if not self._kept.make_room(root, f"{commit}/{name}", metadata.size):
                raise Refusal(
                    507,
                    f"{name} of {repo_id} has {metadata.size} bytes, and this server may keep {self._kept.most}"
                    " (--max-size)",
                    "DiskFull",
                )
            try:
                folder.prepare()
                handle = self.manager.submit([request], model_id=repo_id)
            except OSError as error:
                self._kept.give_up(root, f"{commit}/{name}")
                raise Refusal(507, f"{name} of {repo_id} cannot be kept here: {error}", "DiskFull") from error
            made = Fetch(repo_type, repo_id, name, destination, handle, self._lookups.base)
            self._note_begun(made)
        logger.info("fetching %s of %s, %s bytes", name, repo_id, metadata.size)
        return made

    def _find(self, path: str) -> Fetch | None:
        with self._lock:
            found = self._fetches.get(path)
        return None if found is None or found.handle.is_over else found

    def _note_begun(self, fetch: Fetch) -> None:
        queue_id = fetch.handle.queue_id
        with self._lock:
            self._fetches[fetch.key] = self._by_queue[queue_id] = fetch
            self.begun += 1
            over = queue_id in self._early
            self._early.discard(queue_id)
        if over:
            self._settle(queue_id)

    def stream(self, fetch: Fetch) -> Stream:
        """Return an answer's view of a fetch."""
        destination = fetch.destination
        hold = partial(self._kept.hold, os.path.basename(destination.folder.root), destination.etag)
        in_doubt = partial(self._is_in_doubt, fetch)
        return Stream(fetch, private=self._lookups.private, hold=hold, in_doubt=in_doubt)

    def _is_in_doubt(self, fetch: Fetch) -> bool:
        """Return whether the other Hub did not answer when it was last asked for a file, or for any."""
        return self._silence.lasts(fetch.key) or self._lookups.last_error is not None

    def _note(self, event: DownloadEvent) -> None:
        if event.kind == "queue_done" and event.queue_id is not None:
            self._settle(event.queue_id)

    def _settle(self, queue_id: str) -> None:
        """Forget a fetch that is over, and remember its file."""
        with self._lock:
            fetch = self._by_queue.pop(queue_id, None)
            if fetch is None:
                self._early.add(queue_id)
                return
            destination = fetch.destination
            if self._fetches.get(fetch.key) is fetch:
                del self._fetches[fetch.key]
        fetch.handle.wait()  # it is told of a moment before it is over
        folder, pointer = os.path.basename(destination.folder.root), f"{fetch.commit}/{fetch.name}"
        if fetch.came:
            self._silence.hear(fetch.key)
        errors = fetch.handle.errors()
        if errors:
            self._note_failure(fetch, errors[0][1])
            self._kept.give_up(folder, pointer)
        else:
            self._kept.add(folder, destination.etag, fetch.size, pointer, fetched=fetch.came)

    def _note_failure(self, fetch: Fetch, error: BaseException) -> None:
        """Count a fetch that failed, and leave alone for a while what does not answer."""
        with self._lock:
            self.failed += 1
        if isinstance(error, TransferError) and not isinstance(error, HttpStatusError | IntegrityError):
            busy = isinstance(error.__cause__ or error, ServerBusyError)  # it answered, if only that
            self._silence.note(fetch.key, everything=not busy, began=fetch.asked_at)

    def cancel(self, queue_id: str) -> bool:
        """Stop a fetch; what was fetched stays staged, and is gone on from when it is asked for again."""
        with self._lock:
            fetch = self._by_queue.get(queue_id)
        return fetch is not None and fetch.handle.cancel()

    @property
    def paused(self) -> bool:
        """Whether nothing is fetched until `resume`."""
        return bool(self.manager.get_download_stats()["paused"])

    def pause(self) -> bool:
        """Stop fetching; who waits goes on to wait."""
        return self.manager.pause_downloads()

    def resume(self) -> bool:
        """Go on after `pause`."""
        return self.manager.resume_downloads()

    def close(self) -> None:
        """End all, resumable."""
        self._unsubscribe()
        self.manager.shutdown(wait=False)
