"""Progress bars, as huggingface_hub shows them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub.utils import tqdm as hf_tqdm  # type: ignore[attr-defined]  # public, but without an __all__

from hf_haul.hub import upstream_forks  # noqa: F401  a thread may fork while another moves a bar
from hf_haul.hub.bar_making import are_bars_disabled, is_hubs_own, make_bar
from hf_haul.hub.notebooks import needs_text_bar
from hf_haul.hub.wait_bars import WaitNote
from hf_haul.threads import start_daemon

if TYPE_CHECKING:
    from hf_haul.engine.handle import DownloadHandle, QueueProgress

__all__ = [
    "TICK",
    "Bars",
    "MakeBars",
    "bars_of_a_snapshot",
    "bars_of_one_file",
    "resumed_bytes",
    "shift_bar_start",
]

logger = logging.getLogger(__name__)


#: (all bytes, bytes there already) -> bars, each with what it counts: ``files`` or ``bytes``.
MakeBars = Callable[[int, int], Sequence[tuple[str, Any]]]
#: Seconds between two looks at a running download.
TICK: Final = 0.1
#: Seconds for the bars to show the final state; a blocked terminal must not hold up a finished download.
_BAR_GRACE: Final = 1.0
#: Characters of a path that a bar shows.
_SHOWN: Final = 40


class Bars:
    """Progress bars of one download, updated by their own thread.

    So a terminal that blocks, or a slow imitation of tqdm, never slows the download. An error of the caller's
    bar ends the download, as upstream; the loss of the terminal does not.
    """

    def __init__(self, handle: DownloadHandle, make: MakeBars) -> None:
        self._handle = handle
        self._make = make
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._resumed = 0
        # Without a free thread, there are no bars.
        self._thread = start_daemon(self._run, "hf-haul-bars")

    def check(self) -> None:
        """Raise what a bar raised."""
        if self._error is not None:
            raise self._error

    def close(self, grace: float | None = None) -> None:
        """Show the final state and close the bars.

        Args:
            grace: Most seconds to wait for them; one by default.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_BAR_GRACE if grace is None else grace)

    def _run(self) -> None:
        try:
            first = self._handle.progress()
            # A small file may have been downloaded before this line.
            self._resumed = initial = resumed_bytes(first)
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
            if _is_terminal_lost(error):
                logger.warning("No more progress bars: %s", error)
            else:
                self._error = error

    def _follow(self, bars: Sequence[tuple[str, Any]], initial: int) -> None:
        shown = {"bytes": initial, "files": 0}
        note = next((WaitNote(bar) for kind, bar in bars if kind == "bytes"), WaitNote(None))
        waits = self._handle.waits
        if waits is not None and note.is_shown:
            waits.shown = True
        ended = False
        while not ended:
            ended = self._ended.wait(TICK)
            before = shown["bytes"]
            self._show(bars, shown)
            note.show([] if ended or waits is None else waits.current(), moved=shown["bytes"] != before)

    def _show(self, bars: Sequence[tuple[str, Any]], shown: dict[str, int]) -> None:
        now = self._handle.progress()
        for kind, bar in bars:
            done = now.bytes_done if kind == "bytes" else now.files_done
            total = now.bytes_total if kind == "bytes" else now.files_total
            if total and hasattr(bar, "total") and (bar.total or 0) < total:
                bar.total = total
            if kind == "bytes" and resumed_bytes(now) > self._resumed:
                shown[kind] += shift_bar_start(bar, resumed_bytes(now) - self._resumed)
                self._resumed = resumed_bytes(now)
            if done != shown[kind]:
                bar.update(done - shown[kind])
                shown[kind] = done


def resumed_bytes(now: QueueProgress) -> int:
    """Return the bytes that earlier calls left, as far as known."""
    return max(0, now.bytes_done - now.bytes_transferred)


def shift_bar_start(bar: Any, nbytes: int) -> int:
    """Move the start of a tqdm bar: resumed bytes must not count as speed.

    Returns:
        The bytes by which the bar moved: 0 for a bar that is not tqdm's and needs an ``update``.
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
    """Return what makes the bar of ``hf_hub_download``; ``None`` where bars are disabled.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        path: The file.
        size: Bytes, where known.
    """
    name = "huggingface_hub.http_get"
    if are_bars_disabled(cls, name):
        return None

    def make_bars(total: int, initial: int) -> list[tuple[str, Any]]:
        bar = make_bar(
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
    """Return what makes the bars of ``snapshot_download``, files and bytes; ``None`` where they are disabled.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        count: Number of files.
    """
    name = "huggingface_hub.snapshot_download"
    if are_bars_disabled(cls, name):
        return None

    def make_bars(total: int, initial: int) -> list[tuple[str, Any]]:
        alone = is_hubs_own(cls) and needs_text_bar(cls or hf_tqdm)
        bars = []
        if not alone:
            bars.append(("files", make_bar(cls, name, total=count, desc=f"Fetching {count} files")))
        transferred = make_bar(
            cls,
            f"{name}.transfer",
            total=total,
            initial=initial,
            # Text in a notebook cannot have two bars, one above the other.
            desc=f"Fetching {count} files" if alone else "Downloading bytes",
            unit="B",
            unit_scale=True,
        )
        return [*bars, ("bytes", transferred)]

    return make_bars


def _is_terminal_lost(error: BaseException) -> bool:
    """Return whether a bar failed because its pipe was closed or its terminal hung up."""
    return isinstance(error, OSError) or (isinstance(error, ValueError) and "closed file" in str(error))
