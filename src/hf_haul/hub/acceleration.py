"""Give code that calls huggingface_hub our engine, without changing it.

Libraries import ``hf_hub_download`` and ``snapshot_download`` by name, long before anybody can replace them.
But all files are downloaded by one function that ``huggingface_hub.file_download`` looks up at each call:
``_download_to_tmp_and_move``. This module replaces it. Which file to fetch, from where, the cache, its links,
the errors and the bars stay upstream's; bytes come over several connections, resumed after a kill, verified,
under one bandwidth limit.

It also replaces the check of whether a redirect may carry the token, by ours, which compares origins:
huggingface_hub 1.x carries it to any port of the same host.

Unchanged are reads through ``HfFileSystem`` (use ``haul://``), and that upstream finishes files in flight on
Ctrl+C.

The function is private, so its parameters are checked first: a huggingface_hub in which they differ stays as
it is, with a warning. Files that hf_xet would fetch come over HTTP, too, and are not published to the blob
store that repositories share.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from huggingface_hub import constants

from hf_haul.digests import Digest
from hf_haul.forks import renew_after_fork
from hf_haul.hub.asking import LISTING_ERRORS, explain, uncached_timeout
from hf_haul.hub.bars import bars_of_one_file
from hf_haul.hub.call_options import CallOptions, raise_all
from hf_haul.hub.client_network import add_client_headers, client_network
from hf_haul.hub.metadata import FileMetadata, digest_from_etag, is_commit
from hf_haul.hub.repo_sources import checkable, sources_of_call
from hf_haul.hub.repository import Repository
from hf_haul.hub.tokens import may_follow_with_token, trusted_origins
from hf_haul.hub.uris import uri_of
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.destinations import UpstreamDestination
from hf_haul.task import DownloadPriority, FileRequest, RemoteFile
from hf_haul.urls import origin_of

__all__ = ["Acceleration", "AccelerationWarning", "accelerate"]

logger = logging.getLogger(__name__)

_MODULE: Final = "huggingface_hub.file_download"
_HTTP_MODULE: Final = "huggingface_hub.utils._http"
_DOWNLOAD_FUNCTION: Final = "_download_to_tmp_and_move"
_SHARE_FUNCTION: Final = "publish_blob_to_shared_store"
#: Whether a redirect is followed with the token; looked up in both modules.
_REDIRECT_CHECK: Final = "_is_same_or_hub_host"
#: The parameters that we know. Others may mean other rules.
_PARAMETERS: Final = (
    "incomplete_path", "destination_path", "url_to_download", "headers", "expected_size", "filename",
    "force_download", "etag", "xet_file_data", "tqdm_class",
)  # fmt: skip

#: The path of a file's URL, as ``hf_hub_url`` makes it.
_RESOLVED: Final = re.compile(
    r"/(?:(?P<kind>datasets|spaces|kernels)/)?(?P<repo_id>[^/?#]+(?:/[^/?#]+)?)/resolve/(?P<revision>[^/?#]+)/(?P<path>[^?#]+)"
)


class AccelerationWarning(UserWarning):
    """This huggingface_hub cannot be accelerated and works as it does without us."""


@dataclass(frozen=True)
class _Replacement:
    """One function of upstream's, and its replacement."""

    module: Any
    name: str
    original: Callable[..., Any]
    ours: Callable[..., Any]


class Acceleration:
    """Runs every download of huggingface_hub in this process on our engine, for a block or until uninstalled.

    Works for code that imported huggingface_hub before: ``transformers``, ``datasets``, ``diffusers``:

        with hf_haul.accelerate():
            tokenizer = AutoTokenizer.from_pretrained("org/model")

    Locking: ``_lock`` guards the options and the replacements; it is held while functions are exchanged,
    never while one runs.
    """

    def __init__(self) -> None:
        self.__name__ = "accelerate"  # it is used like a function
        self._lock = threading.Lock()
        self._options: list[CallOptions] = []
        self._replaced: list[_Replacement] = []
        self._thread_state = threading.local()
        renew_after_fork(self, Acceleration._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        if (
            self._replaced and not self._options
        ):  # another thread was at it: as if it had not begun, or had finished
            self._restore()

    @property
    def installed(self) -> bool:
        """Whether huggingface_hub's downloads run on our engine now."""
        return bool(self._options)

    @contextmanager
    def __call__(
        self,
        *,
        manager: ParallelDownloadManager | None = None,
        priority: DownloadPriority = DownloadPriority.NORMAL,
    ) -> Iterator[bool]:
        """Accelerate all threads for a block.

        Args:
            manager: The manager to use; a process-wide one by default.
            priority: Urgency of these downloads among all of the manager.

        Yields:
            Whether downloads are accelerated; see :meth:`install`.

        Warns:
            AccelerationWarning: huggingface_hub was left as it is.
        """
        options = self._push(CallOptions(manager=manager, priority=priority), frames=4)
        try:
            yield options is not None
        finally:
            if options is not None:
                self._remove(options)

    def install(
        self,
        *,
        manager: ParallelDownloadManager | None = None,
        priority: DownloadPriority = DownloadPriority.NORMAL,
    ) -> bool:
        """Accelerate until :meth:`uninstall`; installed twice takes uninstalled twice.

        Args:
            manager: The manager to use; a process-wide one by default.
            priority: Urgency of these downloads among all of the manager.

        Returns:
            Whether downloads are accelerated; ``False``, after a warning, if this huggingface_hub has other
            functions.

        Warns:
            AccelerationWarning: huggingface_hub was left as it is.
        """
        return self._push(CallOptions(manager=manager, priority=priority), frames=3) is not None

    def uninstall(self) -> None:
        """Undo the last :meth:`install` in force; the last of all gives huggingface_hub its functions back.

        Does nothing if nothing is installed. A function that somebody else put over ours stays; ours then
        calls the original.
        """
        with self._lock:
            latest = self._options[-1:]
        if latest:
            self._remove(latest[0])

    def _push(self, options: CallOptions, frames: int) -> CallOptions | None:
        with self._lock:
            if not self._replaced:
                reason = self._replace()
                if reason is not None:
                    warnings.warn(reason, AccelerationWarning, stacklevel=frames)
                    return None
            self._options.append(options)
            return options

    def _remove(self, options: CallOptions) -> None:
        with self._lock:
            # By identity: blocks of several threads may end in any order.
            self._options[:] = [each for each in self._options if each is not options]
            if not self._options:
                self._restore()

    def _replace(self) -> str | None:
        """Replace upstream's functions; or return why not."""
        module = importlib.import_module(_MODULE)
        function = getattr(module, _DOWNLOAD_FUNCTION, None)
        parameters = () if function is None else tuple(inspect.signature(function).parameters)
        if function is None or parameters != _PARAMETERS:
            found = (
                f"has no {_DOWNLOAD_FUNCTION}"
                if function is None
                else f"has {_DOWNLOAD_FUNCTION}({', '.join(parameters)})"
            )
            return (
                f"this huggingface_hub cannot be accelerated and stays as it is: it {found}. "
                "hf_haul.snapshot_download and hf_haul.hf_hub_download work all the same."
            )
        self._patch(module, _DOWNLOAD_FUNCTION, self._replace_download(function))
        store = getattr(module, _SHARE_FUNCTION, None)
        if store is not None:
            self._patch(module, _SHARE_FUNCTION, self._replace_sharing(store))
        for each in (module, importlib.import_module(_HTTP_MODULE)):
            if hasattr(each, _REDIRECT_CHECK):
                self._patch(each, _REDIRECT_CHECK, may_follow_with_token)
        return None

    def _patch(self, module: Any, name: str, ours: Callable[..., Any]) -> None:
        self._replaced.append(_Replacement(module, name, getattr(module, name), ours))
        setattr(module, name, ours)

    def _restore(self) -> None:
        for each in self._replaced:
            if getattr(each.module, each.name, None) is each.ours:
                setattr(each.module, each.name, each.original)
            else:
                logger.warning(
                    "%s.%s was replaced by others meanwhile; left as it is", each.module.__name__, each.name
                )
        self._replaced.clear()

    def _replace_download(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def download_to_tmp_and_move(*args: Any, **kwargs: Any) -> None:
            options = self._options[-1:]
            if not options:  # uninstalled, but somebody holds on to us
                original(*args, **kwargs)
                return
            call = dict(zip(_PARAMETERS, args, strict=False), **kwargs)
            self._thread_state.latest = None
            _download(options[0], **call)
            self._thread_state.latest = str(call["destination_path"])

        return download_to_tmp_and_move

    def _replace_sharing(self, original: Callable[..., bool]) -> Callable[..., bool]:
        @functools.wraps(original)
        def publish_blob_to_shared_store(*, blob_path: str, **kwargs: Any) -> bool:
            if getattr(self._thread_state, "latest", None) == str(blob_path):
                return False  # came over plain HTTP
            return original(blob_path=blob_path, **kwargs)

        return publish_blob_to_shared_store


#: The one for this process: ``with hf_haul.accelerate(): ...``, or ``hf_haul.accelerate.install()``.
accelerate: Final = Acceleration()


def _add_client_headers(url: str, headers: dict[str, str]) -> Mapping[str, str]:
    """Return the headers, with those of the user's own client if the URL is the Hub's and not a storage's."""
    # Upstream has taken the token off where it is not; and without one only the endpoint in use is known.
    is_own = "authorization" in headers or origin_of(url) in trusted_origins(constants.ENDPOINT)
    return add_client_headers(url, headers) if is_own else headers


@dataclass(frozen=True)
class _ResolvedUrl:
    """What the URL of a repository's file says about it."""

    base: str
    repo_type: str
    repo_id: str
    revision: str
    path: str

    @property
    def uri(self) -> str:
        return uri_of(self.repo_type, self.repo_id, self.revision, self.path)

    def repository(self, headers: dict[str, str]) -> Repository:
        """Return its repository, which is asked with these headers."""
        return Repository(self.repo_id, self.repo_type, endpoint=self.base, token=False, headers=headers)

    def confirmation(self, headers: dict[str, str]) -> Callable[[], Digest | None] | None:
        """Return what asks for the digest of the file, with these headers."""
        return self.repository(headers).confirmation(self.path, self.revision)


def _read_url(url: str) -> _ResolvedUrl | None:
    """Return what a URL says about a repository's file; ``None`` where it names none."""
    base = constants.ENDPOINT.rstrip("/")
    if not url.startswith(f"{base}/"):
        base = "/".join(url.split("/", 3)[:3])
    match = _RESOLVED.fullmatch(url[len(base) :])
    if match is None:
        return None
    repo_type = (match["kind"] or "models")[:-1]
    return _ResolvedUrl(base, repo_type, match["repo_id"], unquote(match["revision"]), unquote(match["path"]))


def _with_sources(
    remote: RemoteFile, named: _ResolvedUrl | None, options: CallOptions, headers: dict[str, str]
) -> RemoteFile:
    """Return a file with the sources of the settings, where its URL tells which file it is there.

    They are asked for it at a commit, and believed nothing: for a branch, and where an etag may be no digest,
    the Hub is asked once more.
    """
    if named is None or remote.etag is None:  # the URL of a storage
        return remote
    repository = named.repository(headers)
    if not sources_of_call(repository, named.revision, options):
        return remote
    found = FileMetadata(named.revision, remote.etag, remote.size)
    if not is_commit(named.revision):
        try:
            found = repository.metadata(named.path, named.revision, timeout=uncached_timeout())
        except LISTING_ERRORS as error:
            logger.debug("%s is fetched from its Hub alone: %s", named.path, error)
            return remote
    if found.etag != remote.etag:  # the branch has moved since
        return remote
    found = checkable(repository, named.path, found)
    return replace(
        remote,
        digest_is_etag=not found.listed,
        confirm=None if found.listed else remote.confirm,
        sources=tuple(
            replace(each, url=each.stand_in(replace(remote, path=named.path)).url, joins_path=False)
            for each in sources_of_call(repository, found.commit, options)
        ),
    )


def _download(
    options: CallOptions,
    *,
    incomplete_path: Path,
    destination_path: Path,
    url_to_download: str,
    headers: dict[str, str],
    expected_size: int | None,
    filename: str,
    force_download: bool,
    etag: str | None,
    xet_file_data: Any = None,
    tqdm_class: Any = None,
) -> None:
    """Download and verify a file on our engine, in place of upstream's function."""
    if destination_path.exists() and not force_download:
        return
    counter = getattr(constants, "X_HF_DOWNLOAD_COUNTER", None)
    named = _read_url(url_to_download)
    remote = RemoteFile(
        path=filename,
        url=url_to_download,
        size=expected_size,
        digest=None if etag is None else digest_from_etag(etag),
        etag=etag,
        headers=_add_client_headers(
            url_to_download, {**headers, **({} if counter is None else {counter: "1"})}
        ),
        network=client_network(),
        trusted_origins=trusted_origins(url_to_download),
        xet_hash=None if xet_file_data is None else xet_file_data.file_hash,
        announced_by="huggingface_hub",
        digest_is_etag=True,
        confirm=None if named is None else named.confirmation(headers),
        uri="" if named is None else named.uri,
    )
    request = FileRequest(
        remote=_with_sources(remote, named, options, headers),
        destination=UpstreamDestination(destination_path, incomplete_path),
        fresh=force_download,
    )
    make_bars = bars_of_one_file(tqdm_class, filename, expected_size)
    errors = options.download([request], filename, make_bars)
    if errors:
        raise_all([(path, explain(error, url_to_download, filename)) for path, error in errors])
