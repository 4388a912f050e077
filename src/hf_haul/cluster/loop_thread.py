"""An event loop in a thread of its own, for what a node answers and asks beside its download."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final, TypeVar

from hf_haul.errors import HaulError, StopRequestedError
from hf_haul.threads import start_daemon

__all__ = ["LoopThread"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads that wait for the disk, made when needed.
_WAITERS: Final = 8
#: Seconds between two looks whether the loop has ended, while something is waited for.
_LOOK: Final = 0.5
#: Seconds for all that runs in the loop to end.
_END_SECONDS: Final = 1.0


class LoopThread:
    """An event loop that runs until it is closed. Of use in the process that started it.

    Args:
        name: Of its threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._started = False
        self._ended = threading.Event()
        self._closing = threading.Lock()  # held by who closes it first, and never given back
        self._ending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run.

        Raises:
            HaulError: The system gives no thread.
        """
        self._loop.set_default_executor(ThreadPoolExecutor(_WAITERS, f"{self._name}-disk"))
        self._started = start_daemon(self._run, self._name) is not None
        if not self._started:
            raise HaulError("this process gets no more threads: a node needs one to answer the others")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._end_all())
            self._loop.close()
            self._ended.set()

    async def _end_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _END_SECONDS)
        # What a thread is doing for an answer that is not sent any more is not waited for.
        await self._loop.shutdown_asyncgens()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop, and return what it returns; not for use within the loop.

        Raises:
            StopRequestedError: The loop has ended, or ends before it is done.
        """
        coroutine = work()
        try:
            future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise StopRequestedError from None
        try:
            # What the loop is given at the moment of its end is never begun.
            while not wait([future], _LOOK).done:
                if self._ended.is_set() and not future.done():
                    raise StopRequestedError
            return future.result()
        except CancelledError:
            raise StopRequestedError from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop soon; do nothing once the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(partial(function, *arguments))

    def close(self, last: Callable[[], Awaitable[object]] | None = None) -> None:
        """End the loop, within about a second. Calling it again, or in a forked child, does nothing.

        Args:
            last: What is to be done before.
        """
        if self._pid != os.getpid() or not self._closing.acquire(blocking=False):
            return
        if not self._started:
            self._loop.close()
            return
        self.call(self._begin_end, last)
        self._ended.wait(2.0 * _END_SECONDS)

    def _begin_end(self, last: Callable[[], Awaitable[object]] | None) -> None:
        self._ending = self._loop.create_task(self._end(last))

    async def _end(self, last: Callable[[], Awaitable[object]] | None) -> None:
        try:
            if last is not None:
                await asyncio.wait_for(last(), _END_SECONDS)
        except Exception as error:  # noqa: BLE001  it ends anyway
            logger.debug("%s: %r as it ended", self._name, error)
        finally:
            self._loop.stop()
