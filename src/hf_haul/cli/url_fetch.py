"""How ``hf-haul get`` fetches: every server is asked first what it has, then all files are one queue.

So files that are there already are known before anything is fetched, free space is compared with all that is
to come, and what is shown has a total. A file that cannot be had fails alone.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hf_haul.cancellation import CancelToken
from hf_haul.cli.download_results import error_as_dict
from hf_haul.cli.url_lists import WantedUrl, last_name
from hf_haul.digests import Digest, file_digest
from hf_haul.engine.event_stream import EventStream, sum_of_sizes
from hf_haul.engine.file_specs import require_writable
from hf_haul.engine.url_requests import request_url
from hf_haul.errors import HaulError, UnsafePathError, name_file
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.download_notes import DownloadNote, read_download_note, write_download_note
from hf_haul.storage.free_space import free_bytes
from hf_haul.storage.nodes import is_node
from hf_haul.storage.placing import follow_link
from hf_haul.task import DownloadPriority, FileRequest, RemoteFile
from hf_haul.threads import results_in_threads
from hf_haul.transports.file_facts import FileFacts
from hf_haul.urls import redact
from hf_haul.waits import unattended

__all__ = ["FetchedUrl", "UrlFetch"]

#: What the queue is called in events.
_LABEL: Final = "hf-haul get"
#: Servers that are asked at once.
_ASKED_AT_ONCE: Final = 16
_TICK: Final = 0.1  # seconds between two looks at a running download


@dataclass
class FetchedUrl:
    """What became of one URL.

    Attributes:
        wanted: What was asked for.
        label: What events and messages call it; no other file has the same.
        path: Where the file is; ``None`` if that is not known.
        facts: What its server said.
        reused: Whether it was there already.
        error: Why it is not there.
    """

    wanted: WantedUrl
    label: str
    path: Path | None = None
    facts: FileFacts = field(default_factory=FileFacts)
    reused: bool = False
    error: Exception | None = None

    @property
    def state(self) -> str:
        """``failed``, ``reused`` or ``fetched``."""
        if self.error is not None:
            return "failed"
        return "reused" if self.reused else "fetched"

    @property
    def size(self) -> int | None:
        """Its bytes, where they are known."""
        if self.error is None and self.path is not None and not is_node(self.path):
            return os.stat(self.path).st_size
        return self.facts.size

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        return {
            "url": redact(self.wanted.url),
            "path": None if self.path is None else str(self.path),
            "state": self.state,
            "size": self.size,
            "etag": self.facts.etag,
            "last_modified": self.facts.modified,
            "error": None if self.error is None else error_as_dict(self.error)["error"],
        }


class UrlFetch:
    """Fetches files from any http(s) URLs.

    Args:
        manager: Fetches them; its ``on_event`` is told.
        headers: Sent to each URL's own origin.
        folder: Where files go whose path is not absolute.
        priority: Their urgency beside other downloads of the manager.
        names_from_servers: Whether servers say what files are called.
        fresh: Whether every file is fetched anew.

    Attributes:
        bytes_fetched: Bytes that came over the network.
        bytes_wasted: Those of them that were thrown away.
        bytes_reused: Bytes that were there already, of whole files and of parts.
    """

    def __init__(
        self,
        manager: ParallelDownloadManager,
        *,
        headers: dict[str, str],
        folder: Path,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        names_from_servers: bool = False,
        fresh: bool = False,
    ) -> None:
        self._manager = manager
        self._headers = headers
        self._folder = folder
        self._priority = priority
        self._names_from_servers = names_from_servers
        self._fresh = fresh or not manager.settings.enable_resume
        self._tokens: list[CancelToken] = []
        feed = manager.event_feed
        self._events = None if feed is None else EventStream([feed], _LABEL)
        self._waits = unattended if self._events is None else self._events.waits
        self.bytes_fetched = self.bytes_wasted = self.bytes_reused = 0

    def run(self, wanted: Sequence[WantedUrl]) -> list[FetchedUrl]:
        """Fetch files; return what became of each, in the same order.

        Raises:
            DiskFullError: They will not fit.
        """
        files = [
            FetchedUrl(each, label) for each, label in zip(wanted, _distinct_labels(wanted), strict=True)
        ]
        self._look_at(files)
        self._refuse_same_places(files)
        missing = [each for each in files if each.error is None and not each.reused]
        requests = [self._request_of(each) for each in missing]
        self._tell_plan(files, requests)
        try:
            self._fetch(missing, requests)
        except Exception as error:
            if self._events is not None:
                self._events.error(error)
            raise
        self.bytes_reused += sum(each.size or 0 for each in files if each.reused)
        self._tell_end(files)
        return files

    # ---- what is there, here and at the servers

    def _look_at(self, files: Sequence[FetchedUrl]) -> None:
        def look(index: int) -> None:
            token = CancelToken(self._waits)
            self._tokens.append(token)
            try:
                self._look(files[index], token)
            except (HaulError, OSError, ValueError) as error:
                name_file(error, files[index].label)
                files[index].error = error
            finally:
                self._tokens.remove(token)

        def stop() -> None:
            for token in list(self._tokens):
                token.set()

        limit = min(_ASKED_AT_ONCE, self._manager.settings.max_concurrent_downloads)
        with closing(results_in_threads("hf-haul-look", limit, look, range(len(files)), stop)) as results:
            for _ in results:
                self._waits.review()

    def _look(self, file: FetchedUrl, token: CancelToken) -> None:
        wanted = file.wanted
        file.path = self._path(wanted, None)
        if self._has_digest(file.path, wanted.digest, token):
            file.reused = True
            return
        remote = RemoteFile(file.label, wanted.url, headers=self._headers)
        file.facts = facts = self._manager.ask_about(remote, token)
        if self._names_from_servers and wanted.name is None and facts.name is not None:
            file.path = self._path(wanted, facts.name)
            self._refuse_overwriting(file.path, wanted)
        if file.path is None:
            raise UnsafePathError(_no_name(asked_server=self._names_from_servers))
        if file.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file.path))
        file.reused = self._is_current(file, token)
        if not file.reused:
            require_writable(follow_link(file.path).parent)

    def _path(self, wanted: WantedUrl, said: str | None) -> Path | None:
        """Return where a file goes; ``None`` if it has no name.

        Args:
            wanted: The file.
            said: What its server calls it.
        """
        name = wanted.name or said or last_name(wanted.url)
        return None if name is None else self._folder / name

    def _has_digest(self, path: Path | None, digest: Digest | None, token: CancelToken) -> bool:
        if self._fresh or digest is None or path is None or is_node(path) or not path.is_file():
            return False
        return file_digest(path, digest.algorithm, token.check) == digest

    def _is_current(self, file: FetchedUrl, token: CancelToken) -> bool:
        """Return whether the file is there as its server has it now."""
        path, facts, digest = file.path, file.facts, file.wanted.digest
        if self._fresh or path is None or is_node(path) or not path.is_file():
            return False
        if digest is not None:
            return self._has_digest(path, digest, token)
        status = path.stat()
        if facts.size is not None and status.st_size != facts.size:
            return False
        known = read_download_note(path)
        if known is not None:
            return known.is_still(DownloadNote.of(file.wanted.url, facts.etag, facts.modified))
        # As wget -N and rsync take it: with the size and the time of the server's it is the same.
        return (
            facts.modified is not None and facts.size is not None and int(status.st_mtime) == facts.modified
        )

    def _refuse_overwriting(self, path: Path | None, wanted: WantedUrl) -> None:
        """Refuse to replace a file of which the server has merely learned, or guessed, the name.

        Raises:
            FileExistsError: Something is there that did not come from the same URL.
        """
        if path is None or not os.path.lexists(path):
            return
        known = read_download_note(path)
        if known is None or known.url != DownloadNote.of(wanted.url, None, None).url:
            raise FileExistsError(
                f"{path} exists and did not come from this URL, and a server may not choose what is replaced;"
                " remove it, or say with -o what to call the new file"
            )

    @staticmethod
    def _refuse_same_places(files: Sequence[FetchedUrl]) -> None:
        """Fail each file that would go where an earlier one goes."""
        taken: dict[str, FetchedUrl] = {}
        for file in files:
            if file.error is not None or file.path is None or is_node(file.path):
                continue
            first = taken.setdefault(os.path.realpath(file.path), file)
            if first is not file:
                file.reused = False
                file.error = FileExistsError(
                    f"{file.label} would replace {first.label}: both go to {file.path}; say with out= what to call them"
                )

    # ---- fetching

    def _request_of(self, file: FetchedUrl) -> FileRequest:
        wanted, facts = file.wanted, file.facts
        assert file.path is not None  # or it had failed
        remote = RemoteFile(
            file.label,
            wanted.url,
            size=facts.size,
            digest=wanted.digest,
            headers=self._headers,
            location=facts.location,
            ranges=facts.ranges,
            announced_by="its server",
        )
        return request_url(remote, file.path.absolute(), same_size_will_do=False, fresh=self._fresh)

    def _fetch(self, files: Sequence[FetchedUrl], requests: Sequence[FileRequest]) -> None:
        if not files:
            return
        handle = self._manager.submit(requests, model_id=_LABEL, priority=self._priority, events=self._events)
        while not handle.wait(_TICK):
            pass
        errors = dict(handle.errors())
        for file, request in zip(files, requests, strict=True):
            error = errors.get(file.label)
            if isinstance(error, Exception):
                file.error = error
            elif error is not None:
                raise error
            elif not is_node(request.destination.path):
                facts = file.facts
                write_download_note(
                    request.destination.path, DownloadNote.of(file.wanted.url, facts.etag, facts.modified)
                )
        now = handle.progress()
        self.bytes_fetched, self.bytes_wasted = now.bytes_transferred, now.bytes_wasted
        self.bytes_reused = max(0, now.bytes_done - (now.bytes_transferred - now.bytes_wasted))

    # ---- events

    def _tell_plan(self, files: Sequence[FetchedUrl], requests: Sequence[FileRequest]) -> None:
        if self._events is None:
            return
        reused = [each for each in files if each.reused]
        nbytes, here = sum_of_sizes(requests), sum(each.size or 0 for each in reused)
        self._events.plan(
            files=len(files),
            nbytes=None if nbytes is None else nbytes + here,
            files_reused=len(reused),
            reused=here,
            files_failed=sum(each.error is not None for each in files),
            free_disk=free_bytes(self._folder),
            path=self._folder,
        )
        for file in files:
            if file.error is not None:
                self._events.file("failed", file.label, file.facts.size, file.error)

    def _tell_end(self, files: Sequence[FetchedUrl]) -> None:
        if self._events is None:
            return
        failed = next((each for each in files if each.error is not None), None)
        if failed is None or failed.error is None:
            self._events.done(self._folder)
        else:
            self._events.error(failed.error, failed.label)


def _no_name(*, asked_server: bool) -> str:
    also = " and its server gives it none" if asked_server else ""
    return f"the URL does not end with a file's name{also}; say with -o what to call it"


def _distinct_labels(wanted: Sequence[WantedUrl]) -> list[str]:
    """Return what to call each file, with a number where several have one name."""
    labels = [each.label for each in wanted]
    often = Counter(labels)
    numbers: Counter[str] = Counter()
    found = []
    for label in labels:
        numbers[label] += 1
        found.append(label if often[label] == 1 else f"{label} ({numbers[label]})")
    return found
