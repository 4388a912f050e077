"""One call of a public function: its arguments, its manager, and which of its errors is raised."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from huggingface_hub import constants

from hf_haul.config import DEFAULT_TIMINGS, Settings, Timings, parse_rate, require_number
from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.events import EventCallback, EventFeed
from hf_haul.errors import DownloadCancelledError, add_note
from hf_haul.failures import describe
from hf_haul.hub.bars import (
    TICK,
    Bars,
    MakeBars,
)
from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.wait_bars import WaitBar
from hf_haul.task import (
    DownloadPriority,
    DownloadProgress,
    DownloadState,
    FileRequest,
)

if TYPE_CHECKING:
    from hf_haul.manager import ParallelDownloadManager

__all__ = [
    "CallOptions",
    "ProgressCallback",
    "absolute_path",
    "checked_repo_type",
    "effective_etag_timeout",
    "raise_all",
]

ProgressCallback = Callable[[DownloadProgress], None]
#: Seconds for a cancelled download to stop, and for its bars to close, before the error is raised.
_CANCEL_GRACE: Final = 0.4
#: Seconds for a callback that takes its time to be told the end, and after an interrupt.
_EVENTS_GRACE, _INTERRUPT_GRACE = 2.0, 0.1
#: Notes of an error about other files, and files that one of them names.
_NOTES: Final = 50
_NAMED: Final = 3


@dataclass(frozen=True)
class CallOptions:
    """What hf-haul adds to the arguments of huggingface_hub's functions.

    Checks each argument, by its name there, before a call writes anything.

    Attributes:
        priority: Urgency among all downloads of the manager.
        max_bandwidth: Limit in bytes per second, or a text such as ``50MB/s``; ``unlimited`` lifts the one
            of the settings.
        max_connections: Most connections at once.
        verify: Whether digests are checked; ``None`` leaves it to the settings.
        progress_callback: Called with each file's progress.
        manager: The manager to use.
        max_workers: Files in flight at once.
        on_event: Called with every event.
        sources: Where bytes may come from, too; ``None`` leaves it to the settings.
    """

    priority: DownloadPriority = DownloadPriority.NORMAL
    max_bandwidth: float | str | None = None
    max_connections: int | None = None
    verify: bool | None = None
    progress_callback: ProgressCallback | None = None
    manager: ParallelDownloadManager | None = None
    max_workers: int | None = None
    on_event: EventCallback | None = None
    sources: Sequence[str] | None = None
    _changes: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rate = parse_rate(self.max_bandwidth, "max_bandwidth")
        if rate is not None and rate <= 0:
            raise ValueError(f"max_bandwidth must be greater than 0, or None, not {self.max_bandwidth!r}")
        text = self.max_bandwidth if isinstance(self.max_bandwidth, str) else ""
        for name in ("max_connections", "max_workers"):
            value = getattr(self, name)
            require_number(name, value, whole=True, optional=True)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be greater than 0, not {value!r}")
        changes = {
            # A text that lifts a limit has to be told from an argument that was left out.
            "max_bandwidth_bps": text.strip() or rate,
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
        """Most entries of a listing, from the manager given; ``None`` for the environment's setting."""
        return None if self.manager is None else self.manager.settings.max_listing

    @property
    def timings(self) -> Timings:
        """Seconds that the manager given works by."""
        return DEFAULT_TIMINGS if self.manager is None else self.manager.settings.timings

    @contextmanager
    def engine(self) -> Iterator[ParallelDownloadManager]:
        """Yield the manager given, the process-wide one, or one for this call alone."""
        # Brings the engine and requests along, which a call that finds all in the cache does not need.
        from hf_haul.manager import ParallelDownloadManager, default_manager

        if self.manager is not None:
            yield self.manager
        elif not self._changes:
            yield default_manager()
        else:
            settings = Settings.from_environment(**self._changes)
            with ParallelDownloadManager(settings=settings) as manager:
                yield manager

    @contextmanager
    def events(self, repo_id: str, bar: WaitBar | None = None) -> Iterator[CallEvents]:
        """Yield what tells of a call; tell its end, and wait for the caller's callback, when the block ends.

        Args:
            repo_id: The repository.
            bar: Shows what is waited for until there are bars of files.
        """
        feed = None if self.on_event is None else EventFeed(self.on_event)
        manager_feed = None if self.manager is None else self.manager.event_feed
        feeds = [each for each in (feed, manager_feed) if each is not None]
        events = CallEvents(EventStream(feeds, repo_id) if feeds else None, bar)
        grace = _EVENTS_GRACE
        try:
            with events.reviewing():
                yield events
        except BaseException as error:
            events.error(error)
            if not isinstance(error, Exception):
                grace = _INTERRUPT_GRACE
            raise
        finally:
            deadline = time.monotonic() + grace
            events.flush(grace)
            if feed is not None:
                feed.flush(deadline - time.monotonic())

    def download(
        self,
        requests: Sequence[FileRequest],
        model_id: str,
        make_bars: MakeBars | None,
        events: CallEvents | None = None,
    ) -> list[tuple[str, BaseException]]:
        """Download, and return what failed, the first failure first.

        An interrupt, or a bar that raises, cancels the download; what was fetched stays staged.

        Args:
            requests: The files.
            model_id: What they belong to; a label.
            make_bars: Makes the bars; ``None`` for none, which spares a thread.
            events: Where to tell what happens.
        """
        if events is not None:
            events.note_fetching()
        with self.engine() as manager:
            handle = bars = None
            try:
                handle = manager.submit(
                    requests,
                    model_id=model_id,
                    priority=self.priority,
                    progress_callback=self.progress_callback,
                    events=None if events is None else events.stream,
                )
                bars = None if make_bars is None else Bars(handle, make_bars)
                while not handle.wait(TICK):
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


def raise_all(errors: Sequence[tuple[str, BaseException]]) -> NoReturn:
    """Raise the first error, with the others as its notes: those of the same reason in one."""
    (path, first), *others = errors
    if not isinstance(first, DownloadCancelledError) and not hasattr(first, "named_file"):
        first.named_file = path  # type: ignore[attr-defined]  # any error takes attributes
    reason = describe(first).text.removeprefix(f"{path}: ")
    said = [(path, describe(error).text.removeprefix(f"{path}: ")) for path, error in others]
    same = [path for path, text in said if text == reason]
    if same:
        add_note(first, f"also failed, for the same reason: {_listed(same)}")
    different = [f"also failed: {path}: {text}" for path, text in said if text != reason]
    for note in different[:_NOTES]:
        add_note(first, note)
    if len(different) > _NOTES:
        add_note(first, f"and {len(different) - _NOTES} more files")
    raise first


def _listed(paths: Sequence[str]) -> str:
    """Return some of many paths, and how many more there are."""
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")


TqdmClass = Any  # upstream accepts any callable that imitates tqdm


def checked_repo_type(repo_type: str | None) -> str:
    """Return the kind of a repository, a model by default; raise ``ValueError`` for an unknown one."""
    if repo_type not in constants.REPO_TYPES_WITH_KERNEL:
        raise ValueError(
            f"Invalid repo type: {repo_type}. Accepted repo types are: {constants.REPO_TYPES_WITH_KERNEL!s}"
        )
    return repo_type or "model"


def absolute_path(path: str | Path) -> str:
    """Return an absolute path, without ``~`` and links."""
    return str(Path(path).expanduser().resolve())


def effective_etag_timeout(seconds: float) -> float:
    """Return the timeout in seconds: the environment's, where set, else the argument."""
    if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
        return float(constants.HF_HUB_ETAG_TIMEOUT)
    return seconds
