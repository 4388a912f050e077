"""One call of a public function: which manager it uses, how its bars move, which of its errors goes up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from hf_haul.config import Settings, parse_rate, require_number
from hf_haul.engine.handle import DownloadHandle, QueueProgress
from hf_haul.errors import DownloadCancelledError, add_note
from hf_haul.hub import repository as hub
from hf_haul.manager import ParallelDownloadManager, default_manager
from hf_haul.task import DownloadPriority, DownloadProgress, DownloadState, FileRequest
from hf_haul.threads import start_daemon

__all__ = [
    "Bars",
    "CallOptions",
    "MakeBars",
    "ProgressCallback",
    "bars_of_a_snapshot",
    "bars_of_one_file",
    "raise_all",
    "raise_start",
]

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[DownloadProgress], None]
#: (all bytes, bytes there already) -> bars, each with what it counts: ``files`` or ``bytes``.
MakeBars = Callable[[int, int], Sequence[tuple[str, Any]]]

#: Seconds between two looks at a running download.
_TICK: Final = 0.1
#: Seconds that a cancelled download has to come to rest before its error goes up, and its bars to be closed.
_CANCEL_GRACE: Final = 0.4
#: Seconds that the bars have to say their last word; a blocked terminal must not hold a finished download.
_BAR_GRACE: Final = 1.0
_NOTES: Final = 50
#: Characters of a path that a bar has room for.
_SHOWN: Final = 40


@dataclass(frozen=True)
class CallOptions:
    """What hf-haul adds to the arguments of huggingface_hub's functions.

    Each is checked when it is given, before a call writes anything, and by the name it has there.

    Attributes:
        priority: Urgency among all downloads of the manager.
        max_bandwidth: Limit in bytes per second, or a text such as ``50MB/s``.
        max_connections: Most connections at once.
        verify: Whether digests are checked; ``None`` leaves it to the settings.
        progress_callback: Called with each file's progress.
        manager: The manager to use.
        max_workers: Files in flight at once.
    """

    priority: DownloadPriority = DownloadPriority.NORMAL
    max_bandwidth: float | str | None = None
    max_connections: int | None = None
    verify: bool | None = None
    progress_callback: ProgressCallback | None = None
    manager: ParallelDownloadManager | None = None
    max_workers: int | None = None
    _changes: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rate = parse_rate(self.max_bandwidth, "max_bandwidth")
        if rate is not None and rate <= 0:
            raise ValueError(f"max_bandwidth must be greater than 0, or None, not {self.max_bandwidth!r}")
        for name in ("max_connections", "max_workers"):
            value = getattr(self, name)
            require_number(name, value, whole=True, optional=True)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be greater than 0, not {value!r}")
        changes = {
            "max_bandwidth_bps": rate,
            "max_concurrent_downloads": self.max_connections,
            "verify": self.verify,
            "max_concurrent_files_per_model": self.max_workers,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.manager is not None:
            changes.pop("max_concurrent_files_per_model", None)
            if changes:
                raise ValueError(
                    "max_bandwidth, max_connections and verify make a manager of their own; "
                    "with manager=, set them on that manager"
                )
        object.__setattr__(self, "_changes", changes)

    @property
    def max_listing(self) -> int | None:
        """Entries of a listing, at the most, where a manager was given; ``None`` for what the environment says."""
        return None if self.manager is None else self.manager.settings.max_listing

    @contextmanager
    def engine(self) -> Iterator[ParallelDownloadManager]:
        """The manager given, the process-wide one, or one of this call's own."""
        if self.manager is not None:
            yield self.manager
        elif not self._changes:
            yield default_manager()
        else:
            settings = Settings.from_environment(**self._changes)
            with ParallelDownloadManager(settings=settings) as manager:
                yield manager

    def download(
        self, requests: Sequence[FileRequest], model_id: str, make_bars: MakeBars | None
    ) -> list[tuple[str, BaseException]]:
        """Download, and return what failed, the first failure first.

        An interrupt, or a bar that raises, cancels the download; what was fetched stays staged.

        Args:
            requests: The files.
            model_id: What they belong to; a label.
            make_bars: Makes the bars; ``None`` for none, which spares a thread.
        """
        with self.engine() as manager:
            handle = bars = None
            try:
                handle = manager.submit(
                    requests,
                    model_id=model_id,
                    priority=self.priority,
                    progress_callback=self.progress_callback,
                )
                bars = None if make_bars is None else Bars(handle, make_bars)
                while not handle.wait(_TICK):
                    if bars is not None:
                        bars.check()
            except BaseException:
                if handle is not None:
                    handle.cancel()
                    handle.wait(_CANCEL_GRACE)
                if bars is not None:
                    bars.close(_CANCEL_GRACE)
                raise
            if bars is not None:
                bars.close()
            if bars is not None:
                bars.check()
            errors: list[tuple[str, BaseException]] = list(handle.errors())
            if not errors and handle.progress().state is DownloadState.CANCELLED:
                stopped = DownloadCancelledError(f"{model_id}: the download was cancelled")
                errors = [(model_id, stopped)]
            return errors


class Bars:
    """Progress bars over one download, kept by a thread of their own.

    A terminal that blocks, or a slow imitation of tqdm, so never slows the download. An error that a bar of
    the caller's raises ends the download, as it does upstream; but not the loss of the terminal.
    """

    def __init__(self, handle: DownloadHandle, make: MakeBars) -> None:
        self._handle = handle
        self._make = make
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._found = 0
        # Where no thread is to be had, there are no bars.
        self._thread = start_daemon(self._run, "hf-haul-bars")

    def check(self) -> None:
        """Raise what a bar raised."""
        if self._error is not None:
            raise self._error

    def close(self, grace: float | None = None) -> None:
        """Show the end and close the bars.

        Args:
            grace: Seconds to wait for them at the most; a second by default.
        """
        self._over.set()
        if self._thread is not None:
            self._thread.join(_BAR_GRACE if grace is None else grace)

    def _run(self) -> None:
        try:
            first = self._handle.progress()
            # A small file may have come over the network before this line.
            self._found = initial = _found(first)
            bars = self._make(first.bytes_total, initial)
            if all(getattr(bar, "disable", False) is True for _, bar in bars):
                return
            with (
                ExitStack() as closing
            ):  # all, whatever happens: one that is left to the collector takes a lock there
                for _, bar in reversed(bars):
                    closing.callback(getattr(bar, "close", lambda: None))
                self._follow(bars, initial)
        except BaseException as error:  # noqa: BLE001  goes up in the caller's thread, through check()
            if _terminal_is_gone(error):
                logger.warning("No more progress bars: %s", error)
            else:
                self._error = error

    def _follow(self, bars: Sequence[tuple[str, Any]], initial: int) -> None:
        shown = {"bytes": initial, "files": 0}
        over = False
        while not over:
            over = self._over.wait(_TICK)
            self._show(bars, shown)

    def _show(self, bars: Sequence[tuple[str, Any]], shown: dict[str, int]) -> None:
        now = self._handle.progress()
        for kind, bar in bars:
            done = now.bytes_done if kind == "bytes" else now.files_done
            total = now.bytes_total if kind == "bytes" else now.files_total
            if total and hasattr(bar, "total") and (bar.total or 0) < total:
                bar.total = total
            if kind == "bytes" and _found(now) > self._found:
                shown[kind] += raise_start(bar, _found(now) - self._found)
                self._found = _found(now)
            if done != shown[kind]:
                bar.update(done - shown[kind])
                shown[kind] = done


def _found(now: QueueProgress) -> int:
    """Bytes that earlier calls left, as far as they have been looked for."""
    return max(0, now.bytes_done - now.bytes_transferred)


def raise_start(bar: Any, nbytes: int) -> int:
    """Have a bar of tqdm's kind start further on: what was found there must not count as speed.

    Returns:
        By how many bytes the bar is further now: none, if it is of another kind, which has to be told in ``update``.
    """
    counters = ("initial", "n", "last_print_n")
    if not all(isinstance(getattr(bar, name, None), int | float) for name in counters):
        return 0
    for name in counters:
        setattr(bar, name, getattr(bar, name) + nbytes)
    refresh = getattr(bar, "refresh", None)
    if refresh is not None:
        refresh()
    return nbytes


def bars_of_one_file(cls: Any, path: str, size: int | None) -> MakeBars | None:
    """The bar that ``hf_hub_download`` shows; ``None`` where bars are switched off.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        path: The file.
        size: Bytes, where known.
    """
    name = "huggingface_hub.http_get"
    if hub.bars_are_off(cls, name):
        return None

    def make_bars(total: int, initial: int) -> list[tuple[str, Any]]:
        bar = hub.make_bar(
            cls,
            name,
            total=total or size,
            initial=initial,
            desc=path if len(path) <= _SHOWN else f"(…){path[-_SHOWN:]}",
            unit="B",
            unit_scale=True,
        )
        return [("bytes", bar)]

    return make_bars


def bars_of_a_snapshot(cls: Any, count: int) -> MakeBars | None:
    """The bars that ``snapshot_download`` shows: files and bytes; ``None`` where they are switched off.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        count: Number of files.
    """
    name = "huggingface_hub.snapshot_download"
    if hub.bars_are_off(cls, name):
        return None

    def make_bars(total: int, initial: int) -> list[tuple[str, Any]]:
        files = hub.make_bar(cls, name, total=count, desc=f"Fetching {count} files")
        transferred = hub.make_bar(
            cls,
            f"{name}.transfer",
            total=total,
            initial=initial,
            desc="Downloading bytes",
            unit="B",
            unit_scale=True,
        )
        return [("files", files), ("bytes", transferred)]

    return make_bars


def _terminal_is_gone(error: BaseException) -> bool:
    """Whether a bar failed only because nobody can see it: its pipe was closed, its terminal hung up."""
    return isinstance(error, OSError) or (isinstance(error, ValueError) and "closed file" in str(error))


def raise_all(errors: Sequence[tuple[str, BaseException]]) -> NoReturn:
    """Raise the first error, with the others as its notes."""
    (_, first), *others = errors
    for path, error in others[:_NOTES]:
        add_note(first, f"also failed: {path}: {type(error).__name__}: {error}")
    if len(others) > _NOTES:
        add_note(first, f"and {len(others) - _NOTES} more files")
    raise first
