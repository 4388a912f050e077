"""The agent of one node: it brings a job's files to this node, and gives what it has to the others.

It listens on the address that it was asked to, and nowhere else, for as long as it lives; what it answers
needs the job's token. Its files come through the ordinary call of ``snapshot_download``: staged, resumed,
hashed over all their bytes and published as ever, be they from the Hub or from other nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from hf_haul.cancellation import CancelToken
from hf_haul.cluster.assigner import JobAssigner
from hf_haul.cluster.job_node import JobNode
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.node_files import NodeFiles, planned_call
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.polling import DEFAULT_POLL_TIMINGS, MOST_NODES, Poller, PollTimings
from hf_haul.cluster.results import NodeResult
from hf_haul.cluster.serving import JobServer
from hf_haul.cluster.stripes import Stripes
from hf_haul.config import Settings
from hf_haul.engine.events import EventCallback
from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import DownloadCancelledError, InvalidUrlError, StopRequestedError
from hf_haul.failures import describe
from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.snapshot_call import ReadySnapshot, SnapshotCall
from hf_haul.localhub.hosts import ANY_ADDRESS, is_loopback
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import DownloadState
from hf_haul.urls import parse_url
from hf_haul.waits import Wait, WaitReason, Waits

__all__ = ["NodeAgent", "PlanSource"]

logger = logging.getLogger(__name__)

#: Seconds for which a node whose files are in place waits for others, unless it is told otherwise.
_LINGER: Final = 600.0
#: Seconds for which other nodes may take to say what they have, before this one begins.
_GREETING: Final = 3.0
#: Seconds between two looks whether it was cancelled, or interrupted.
_TICK: Final = 0.2
#: Seconds for a cancelled download to stop.
_CANCEL_GRACE: Final = 0.4


class PlanSource(Protocol):
    """Finds a plan once the node can be asked."""

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def repo_id(self) -> str:
        """The repository."""

    @property
    def awaits_another(self) -> bool:
        """Whether it waits for another node to make the plan."""

    def find(self, asker: Poller, loop: LoopThread, waits: Waits, cancelled: CancelToken) -> JobPlan:
        """Return the plan, once there is one."""


class NodeAgent:
    """One node of one job.

    Args:
        plan: The plan; or what finds it.
        name: What the node is called.
        listen: Address and port to listen on; port 0 for any free one.
        token: The job's token.
        url: Where others reach it, if not at the address that it listens on.
        hub_token: The Hub's token, as :func:`hf_haul.snapshot_download` takes it.
        endpoint: The Hub's URL; the plan's if ``None``.
        cache_dir: The cache; the Hub's own if ``None``.
        local_dir: A folder for plain files in its place.
        max_bandwidth: Bytes per second that this node may fetch from the Hub; ``None`` for no limit.
        max_bytes_per_s: Bytes per second that it sends to others; ``None`` for no limit.
        settings: Of the download; those in force if ``None``.
        on_event: Told what happens, as by :func:`hf_haul.snapshot_download`.
        timings: How long it waits for others.

    Raises:
        ValueError: The token is empty although other machines can reach the address, or it cannot be sent.
        OSError: There is no such host.
    """

    def __init__(
        self,
        plan: JobPlan | PlanSource,
        name: str,
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        token: str,
        url: str | None = None,
        hub_token: str | bool | None = None,
        endpoint: str | None = None,
        cache_dir: str | None = None,
        local_dir: str | None = None,
        max_bandwidth: float | None = None,
        max_bytes_per_s: float | None = None,
        settings: Settings | None = None,
        on_event: EventCallback | None = None,
        timings: PollTimings = DEFAULT_POLL_TIMINGS,
    ) -> None:
        _require_token(token, listen[0])
        self.name = name
        self._given = plan
        self._listen = listen
        self._token = token
        self._url = url
        self._hub_token = hub_token
        self._endpoint = endpoint
        self._cache_dir = cache_dir
        self._local_dir = local_dir
        self._settings = settings
        self._max_bandwidth = max_bandwidth
        self._on_event = on_event
        self._timings = timings
        self._cancel = CancelToken()
        self._loop = LoopThread(f"hf-haul-node-{name}")
        self._job = JobNode(name, plan.job_id, on_member=self._meet)
        hosts = {listen[0], *(() if url is None else (parse_url(url).host,))} - ANY_ADDRESS
        self._server = JobServer(self._job, token, max_bytes_per_s=max_bytes_per_s, names=hosts)
        self._poller: Poller | None = None
        self._listed: Mapping[str, str] = {}  # nodes whose URLs are known for good
        self._early: dict[str, str] = {}  # nodes that asked before this one had begun, and where they are
        self._manager: ParallelDownloadManager | None = None
        self._assigner: JobAssigner | None = None
        self._files: NodeFiles | None = None
        self._handle: DownloadHandle | None = None
        if isinstance(plan, JobPlan):
            self._job.set_plan(plan)

    # ---- life

    def start(self) -> str:
        """Listen, and return where others reach it.

        Raises:
            OSError: The port is taken, or the host is none of ours.
            HaulError: The system gives no thread.
        """
        host, port = self._listen
        self._loop.start()
        try:
            bound = self._loop.run(lambda: self._server.start(host, port))
        except BaseException:
            self._loop.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        self._url = self._url or f"http://{shown}:{bound}"
        self._poller = Poller(
            self.name, self._url, self._job.job_id, self._token, self._job, timings=self._timings
        )
        return self._url

    def cancel(self) -> None:
        """End :meth:`run` within a moment; what was fetched stays staged."""
        self._cancel.set()
        handle = self._handle
        if handle is not None:
            handle.cancel()
        self._job.wake()

    def close(self) -> None:
        """End it all, within a second. Calling it again does nothing."""
        self.cancel()
        self._loop.close(self._end)

    async def _end(self) -> None:
        if self._poller is not None:
            await self._poller.close()
        await self._server.close()

    # ---- the job

    def run(
        self,
        members: Mapping[str, str],
        *,
        linger: float = _LINGER,
        absent_too: bool = False,
        on_linger: Callable[[list[str]], object] | None = None,
    ) -> NodeResult:
        """Bring the job's files to this node, and wait until the others need it no more.

        It goes on to answer them afterwards, until it is closed. An error is part of the result, and nobody
        is waited for then.

        Args:
            members: The URLs of all nodes, by name.
            linger: Seconds for which it waits for others once it has ended itself.
            absent_too: Whether it waits for those, too, that have not begun yet, or do not answer.
            on_linger: Told of whom it waits for, whenever that changes.
        """
        began = time.monotonic()
        if not isinstance(self._given, JobPlan):
            self._listed = members  # no scheduler starts one of them anew elsewhere
        result = self._fetch(members)
        result = replace(result, seconds=time.monotonic() - began)
        if result.error is None:
            self._linger(time.monotonic() + linger, absent_too=absent_too, told=on_linger)
        return result

    @property
    def is_needed(self) -> bool:
        """Whether another node is at its files still, and may ask for some of what is here."""
        return bool(self._job.pending(absent_too=False))

    def _fetch(self, members: Mapping[str, str]) -> NodeResult:
        """Bring the files here; return what came of it."""
        error: Exception | None = None
        path: str | None = None
        try:
            path = self._bring(members)
        except StopRequestedError:
            error = DownloadCancelledError(f"{self._given.repo_id}: the download was cancelled")
        except Exception as caught:  # noqa: BLE001  it is part of the result
            error = caught
        finally:
            self._note_ended(error)
            manager, self._manager = self._manager, None
            if manager is not None:
                manager.shutdown(wait=False)
        return self._result(path, error)

    def _bring(self, members: Mapping[str, str]) -> str:
        settings = self._settings or Settings.from_environment()
        if self._max_bandwidth is not None:
            settings = settings.changed(max_bandwidth_bps=self._max_bandwidth)
        self._manager = manager = ParallelDownloadManager(settings=settings)
        # What the job's nodes have is all that there is beside the Hub.
        options = CallOptions(manager=manager, on_event=self._on_event, sources=())
        with options.events(self._given.repo_id) as events:
            plan = self._find_plan(events.waits)
            self._cancel.check()
            call = planned_call(
                plan,
                options=options,
                cache_dir=self._cache_dir,
                local_dir=self._local_dir,
                token=self._hub_token,
                endpoint=self._endpoint,
            ).attended(events)
            ready = call.prepare()
            if not isinstance(ready, ReadySnapshot):  # it was told to be offline, and has all of it
                call.tell(ready, events)
                return str(ready)
            self._begin(plan, call, ready, members, settings)
            call.tell(ready, events)
            self._greet(events.waits)
            errors = self._download(plan, ready, events)
            return call.finish(ready, errors, events)

    def _find_plan(self, waits: Waits) -> JobPlan:
        plan = self._given
        if not isinstance(plan, JobPlan):
            assert self._poller is not None
            self._server.awaits_plan = plan.awaits_another
            plan = plan.find(self._poller, self._loop, waits, self._cancel)
            self._job.set_plan(plan)
        return plan

    def _begin(
        self,
        plan: JobPlan,
        call: SnapshotCall,
        ready: ReadySnapshot,
        members: Mapping[str, str],
        settings: Settings,
    ) -> None:
        """Say what is here, and ask the others."""
        stripes = Stripes.of(plan)
        files = NodeFiles(plan, call, stripes, sequential=settings.write_mode == "sequential")
        assigner = JobAssigner(
            self.name,
            stripes,
            job_id=plan.job_id,
            token=self._token,
            repeated=plan.repeated(),
            nudge=self._nudge,
            on_change=self._tell_change,
        )
        assert self._url is not None
        assigner.note_own_url(self._url)
        assigner.note_stripes(files.look(ready.requests))
        self._files, self._assigner = files, assigner
        self._job.begin(assigner, files.holdings)
        self._job.expect(members)
        watched = stripes.watched_by(self.name)
        self._loop.run(lambda: self._meet_all(members, watched))
        self._tell_change()

    def _greet(self, waits: Waits) -> None:
        """Wait for a moment until the others have said what they have: what they have need not be fetched."""
        deadline = time.monotonic() + _GREETING
        wait = Wait(WaitReason.NETWORK, "waiting for what other nodes have")
        with waits.during(wait, after=1.0):
            while self._job.unheard() and time.monotonic() < deadline:
                self._job.wait(_TICK)
                self._cancel.check()

    def _download(
        self, plan: JobPlan, ready: ReadySnapshot, events: CallEvents
    ) -> list[tuple[str, BaseException]]:
        """Fetch files; return what failed, the first failure first."""
        if not ready.requests:
            return []
        manager, assigner, files = self._manager, self._assigner, self._files
        assert manager is not None
        assert assigner is not None
        assert files is not None
        requests = assigner.assigned(ready.requests)
        events.note_fetching()
        handle = manager.submit(requests, model_id=plan.repo_id, events=events.stream)
        files.note_handle(handle)
        self._handle = handle
        try:
            while not handle.wait(_TICK):
                if self._cancel.is_set():
                    handle.cancel()
        except BaseException:
            handle.cancel()
            handle.wait(_CANCEL_GRACE)
            raise
        errors: list[tuple[str, BaseException]] = list(handle.errors())
        if not errors and handle.state is DownloadState.CANCELLED:
            raise StopRequestedError
        return errors

    def _note_ended(self, error: BaseException | None) -> None:
        """Tell the others that this node needs them no more, or why it never will."""
        self._job.note_ended(None if error is None else describe(error).text)
        self._tell_change()

    def _result(self, path: str | None, error: Exception | None) -> NodeResult:
        origin = peers = present = 0
        if self._assigner is not None and self._files is not None:
            fetched = wasted = 0
            if self._handle is not None:
                progress = self._handle.progress()
                fetched, wasted = progress.bytes_transferred, progress.bytes_wasted
                origin = progress.bytes_by_source.get(self._files.origin, 0)
            peers = fetched - origin
            present = max(0, self._assigner.bytes_here() - (fetched - wasted))
        return NodeResult(path, origin, peers, present, error=error)

    def _linger(
        self, deadline: float, *, absent_too: bool, told: Callable[[list[str]], object] | None
    ) -> None:
        """Wait until the others are done, too."""
        before: list[str] = []
        while not self._cancel.is_set() and time.monotonic() < deadline:
            pending = self._job.pending(absent_too=absent_too)
            if not pending:
                break
            if pending != before:
                logger.info("%s: waiting for %s", self.name, ", ".join(pending))
                if told is not None:
                    told(pending)
                before = pending
            self._job.wait(_TICK)

    # ---- other nodes

    def _meet(self, name: str, url: str) -> None:
        """Note a node that has asked; called in the loop."""
        assigner, poller = self._assigner, self._poller
        if poller is None or name == self.name or self._listed.get(name, url) != url:
            return
        if assigner is None:  # nobody is asked before there is something to say
            if name in self._early or len(self._early) < MOST_NODES:
                self._early[name] = url
            return
        with suppress(InvalidUrlError):
            if poller.add(name, url) or poller.url_of(name) == url:
                assigner.note_member(name, url)

    async def _meet_all(self, members: Mapping[str, str], watched: Collection[str]) -> None:
        if self._poller is not None:
            self._poller.watch(watched)
        # Those that are counted on come first: there is room for so many.
        for name, url in {**members, **self._early, **members}.items():
            self._meet(name, url)
        self._early.clear()

    def _tell_change(self) -> None:
        """Tell the others; called with locks held, so it only wakes the loop."""
        self._loop.call(self._server.note_change)

    def _nudge(self) -> None:
        manager = self._manager
        if manager is not None:
            manager.nudge()


def _require_token(token: str, host: str) -> None:
    """Refuse to listen without a token where other machines reach it.

    Raises:
        ValueError: There is none, or it cannot be sent.
        OSError: There is no such host.
    """
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(
            "the token cannot be sent: it has blanks, or characters that are not printable ASCII"
        )
    if not token and not is_loopback(host):
        raise ValueError(f"nodes that listen on {host} need a token: whoever has it gets the files")
