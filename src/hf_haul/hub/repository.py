"""One repository on one Hub: its revisions, its listing, its files' metadata and URLs.

The file is this long because one class has all that is asked of a repository; how it is asked, and what the
answers mean, is in ``asking``, ``listing`` and ``metadata``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from huggingface_hub import HfApi, RepoFile, constants, file_download, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    build_hf_headers,
)

from hf_haul.cancellation import CancelToken
from hf_haul.config import DEFAULT_TIMINGS, Settings, Timings
from hf_haul.digests import Digest
from hf_haul.hub import upstream_forks  # noqa: F401  a thread may fork while another asks
from hf_haul.hub.api import HubApi
from hf_haul.hub.asking import (
    LISTING_ERRORS,
    ask_once,
    explain,
    explain_misreads,
    is_unanswered,
    retry_broken,
    retry_busy,
    uncached_timeout,
)
from hf_haul.hub.client_network import add_client_headers, client_network
from hf_haul.hub.file_listing import FileListing, PackedFile, listed_file, pack
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.listing import (
    SamePageError,
    too_many_entries,
    tree_pages,
    tree_url,
)
from hf_haul.hub.metadata import (
    FileMetadata,
    ListedFile,
    RevisionInfo,
    credible_size,
    digest_from_etag,
    file_names,
    is_commit,
    metadata_from_listing,
)
from hf_haul.hub.tokens import is_hub, protect_secrets, trusted_origins
from hf_haul.hub.uris import repo_name, uri_of
from hf_haul.storage.safe_paths import require_safe_commit
from hf_haul.task import OtherSource, RemoteFile
from hf_haul.threads import in_threads
from hf_haul.urls import redact
from hf_haul.waits import Waits, unattended

__all__ = ["Repository"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads that ask for the metadata of single files.
_ASKING_THREADS: Final = 8
#: Files asked about in one request. The Hub takes a thousand; mirrors ask it for one after the other.
_PATHS_AT_ONCE: Final = 100


class _cached_property(Generic[T]):  # noqa: N801  used like functools' own
    """``functools.cached_property`` without a lock.

    Until Python 3.11 that of functools holds one over all instances; a child forked meanwhile waits for it
    for ever.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, _owner: type | None = None) -> T:
        value = instance.__dict__[self._name] = self._make(instance)
        return value


@dataclass(frozen=True)
class Repository:
    """One repository on one Hub, and how to ask for it.

    Attributes:
        repo_id: ``org/name`` or ``name``.
        repo_type: ``model``, ``dataset``, ``space`` or ``kernel``.
        endpoint: The Hub's URL; huggingface_hub's if ``None``.
        token: As in huggingface_hub.
        library_name: For the user agent.
        library_version: For the user agent.
        user_agent: For the user agent.
        headers: Sent with every request to the Hub; they win over the others.
        waits: Where waits for the Hub are reported.
        timings: How long they are.
    """

    repo_id: str
    repo_type: str = "model"
    endpoint: str | None = field(default=None, repr=False)  # it may hold a password
    token: bool | str | None = field(default=None, repr=False)
    library_name: str | None = None
    library_version: str | None = None
    user_agent: dict[str, Any] | str | None = None
    headers: dict[str, str] | None = field(default=None, repr=False)
    waits: Waits = field(default=unattended, repr=False, compare=False)
    timings: Timings = field(default=DEFAULT_TIMINGS, repr=False, compare=False)

    @_cached_property
    def request_headers(self) -> dict[str, str]:
        """Headers for every request to the Hub, token included.

        Raises:
            OSError: ``token=True``, but none is stored.
        """
        headers = dict(
            build_hf_headers(
                token=self.token,
                library_name=self.library_name,
                library_version=self.library_version,
                user_agent=self.user_agent,
                headers=self.headers,
            )
        )
        # huggingface_hub marks downloads since 2.0, by a context variable that does not reach our threads.
        counter = getattr(constants, "X_HF_DOWNLOAD_COUNTER", None)
        if counter is not None:
            headers.setdefault(counter, "1")
        return headers

    @_cached_property
    def _frozen_headers(self) -> Mapping[str, str]:
        return add_client_headers(self.base, MappingProxyType(self.request_headers))

    @property
    def base(self) -> str:
        """The Hub's URL, without a slash at its end."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    @_cached_property
    def trusted_origins(self) -> frozenset[str]:
        """Origins that may receive the token, as ``scheme://host:port``."""
        return trusted_origins(self.base)

    @_cached_property
    def _begins(self) -> dict[tuple[str, str], str]:
        return {}

    @_cached_property
    def _shown_base(self) -> str:
        return redact(self.base)

    @property
    def name(self) -> str:
        """The id with the kind before it, such as ``datasets/org/name``."""
        return repo_name(self.repo_type, self.repo_id)

    @property
    def folder_name(self) -> str:
        """The repository's folder in a cache."""
        return str(repo_folder_name(repo_id=self.repo_id, repo_type=self.repo_type))

    @_cached_property
    def _api(self) -> HfApi:
        return HubApi(endpoint=self.base, token=self.token, headers=self.request_headers)

    def url(self, path: str, revision: str) -> str:
        """Return the URL of a file."""
        begin = self._begins.get((self.base, revision))
        if (
            begin is None
        ):  # what all files share; to have it made for each of a million takes most of a minute
            url = hf_hub_url(
                self.repo_id, "x", repo_type=self.repo_type, revision=revision, endpoint=self.base
            )
            begin = self._begins[self.base, revision] = url.removesuffix("x")
        return begin + quote(path)

    def resolve(self, revision: str, *, timeout: float | None, retry: bool = False) -> str:
        """Return the commit that a branch, tag or pull request points to.

        Args:
            revision: What the user asked for.
            timeout: Seconds for one attempt.
            retry: Whether to repeat after transient errors.

        Raises:
            UnsafePathError: The commit cannot be the name of a folder.
            Exception: huggingface_hub's own errors.
        """
        return self.revision_info(revision, timeout=timeout, retry=retry).commit

    def revision_info(self, revision: str, *, timeout: float | None, retry: bool = False) -> RevisionInfo:
        """Return the commit of a revision and names of its files; see :meth:`resolve`."""

        def ask() -> RevisionInfo:
            info = self._api.repo_info(
                self.repo_id, repo_type=self.repo_type, revision=revision, timeout=timeout
            )
            with explain_misreads(f"{redact(self.base)}/{self.repo_id}"):
                assert info.sha is not None, "Repo info returned from server must have a revision sha."
                return RevisionInfo(require_safe_commit(info.sha), file_names(info))

        what = f"{redact(self.base)}/{self.repo_id}"
        if retry:
            return retry_busy(ask, what=what, waits=self.waits, timings=self.timings)
        return retry_broken(ask, what, self.waits, self.timings)

    def list_files(self, commit: str, *, retry_connect: bool = True, most: int | None = None) -> FileListing:
        """List all files of a commit, by path; see also :func:`hf_haul.hub.file_listing.is_partial`.

        Some mirrors (olah) always answer with the first page. Then this lists each folder on its own, and
        takes the rest of a folder of more than one page from the repository's info.

        Args:
            commit: The commit, or any revision.
            retry_connect: Whether to repeat after a refused connection, too.
            most: Most entries to read; ``None`` for the setting.

        Raises:
            SamePageError: A mirror does not list all files.
            BadListingError: A page is not a listing, or the listing is too long.
            Exception: huggingface_hub's own errors.
        """
        most = Settings.from_environment().max_listing if most is None else most
        found = FileListing()
        for entries, (path, entry) in enumerate(
            self._entries(
                commit,
                "",
                recursive=True,
                retry_connect=retry_connect,
                most=most,
                on_answer=found.note_headers,
            ),
            1,
        ):
            if entries > most:
                raise too_many_entries(f"{self.base}/{self.repo_id}", most)
            if entry is not None:
                found.put(path, entry)
        return found

    def _entries(
        self, commit: str, folder: str, *, recursive: bool, **how: Any
    ) -> Iterator[tuple[str, PackedFile | None]]:
        """Yield what is in a folder; with ``None`` for its folders."""
        found: dict[str, PackedFile | None] = {}
        try:
            for page in self._pages(commit, folder, recursive=recursive, **how):
                for item in page:
                    file = listed_file(item)
                    found[item["path"]] = None if file is None else pack(file)
            yield from found.items()
            return
        except SamePageError:
            logger.info(
                "%s has one page of the listing of %r only", redact(self.base), folder or self.repo_id
            )
        if not recursive:
            yield from found.items()
            yield from self._unlisted(commit, folder, found)
            return
        for path, entry in self._entries(commit, folder, recursive=False, **how):
            yield path, entry
            if entry is None:
                yield from self._entries(commit, path, recursive=True, **how)

    def _unlisted(
        self, commit: str, folder: str, listed: Mapping[str, PackedFile | None]
    ) -> Iterator[tuple[str, PackedFile]]:
        """Yield the files of a folder that its listing omits, except those in listed folders."""
        info = retry_busy(
            lambda: self._api.repo_info(
                self.repo_id, repo_type=self.repo_type, revision=commit, timeout=uncached_timeout()
            ),
            waits=self.waits,
            timings=self.timings,
        )
        start = f"{folder}/" if folder else ""
        names = [
            name
            for name in file_names(info)
            if name.startswith(start) and start + name[len(start) :].partition("/")[0] not in listed
        ]
        found: dict[str, ListedFile] = {}
        for first in range(0, len(names), _PATHS_AT_ONCE):
            some = names[first : first + _PATHS_AT_ONCE]
            ask = partial(self.paths_info, some, commit)
            found.update(retry_busy(ask, waits=self.waits, timings=self.timings))
        if not names or found.keys() != set(names):
            raise SamePageError(self.base, len(listed), folder or self.repo_id)
        for name, file in found.items():
            yield name, pack(file)

    def paths_info(self, paths: list[str], commit: str) -> dict[str, ListedFile]:
        """Return what the Hub says of some files; omits those it does not know."""
        found = self._api.get_paths_info(self.repo_id, paths, revision=commit, repo_type=self.repo_type)
        return {
            item.path: ListedFile(
                size=item.size,
                blob_id=item.blob_id,
                lfs_sha256=None if item.lfs is None else item.lfs.sha256,
                lfs_size=None if item.lfs is None else item.lfs.size,
                xet_hash=item.xet_hash,
            )
            for item in found
            if isinstance(item, RepoFile)
        }

    def _pages(
        self, commit: str, folder: str, *, recursive: bool, **how: Any
    ) -> Iterator[list[dict[str, Any]]]:
        pages = tree_pages(
            self.base,
            tree_url(self.base, self.repo_type, self.repo_id, commit, folder),
            self.request_headers,
            recursive=recursive,
            waits=self.waits,
            timings=self.timings,
            **how,
        )
        return (page for page, _ in pages)

    def metadata(
        self,
        path: str,
        revision: str,
        *,
        timeout: float | None,
        retry: bool = False,
        cancel_token: CancelToken | None = None,
    ) -> FileMetadata:
        """Ask for one file's commit, etag and size.

        Args:
            path: The file.
            revision: Any revision.
            timeout: Seconds for one attempt.
            retry: Whether to repeat after transient errors.
            cancel_token: Ends the waits between attempts.

        Raises:
            FileMetadataError: The answer lacks what a Hub sends.
            StopRequestedError: It was stopped.
            Exception: huggingface_hub's other errors.
        """
        url = self.url(path, revision)

        def ask() -> Any:
            with protect_secrets(self.base), explain_misreads(redact(url)):
                return head()

        def head() -> Any:
            return file_download.get_hf_file_metadata(
                url=url,
                timeout=timeout,
                headers=self.request_headers,
                token=self.token,
                endpoint=self.base,
                retry_on_errors=False,  # its waits have no end, and nothing ends them
            )

        try:
            answer = (
                retry_busy(
                    ask,
                    retry_connect=True,
                    cancel_token=cancel_token,
                    waits=self.waits,
                    timings=self.timings,
                )
                if retry
                else retry_broken(ask, path, self.waits, self.timings)
            )
            if answer.commit_hash is None:
                raise FileMetadataError(
                    f"Response from {redact(url)} is missing the '{constants.HUGGINGFACE_HEADER_X_REPO_COMMIT}' header, so it"
                    " does not seem to be served by a Hugging Face Hub endpoint. If HF_ENDPOINT is set, check that it"
                    " points to a Hub-compatible endpoint. Otherwise, check your firewall and proxy settings and make"
                    " sure your SSL certificates are updated."
                )
            if answer.etag is None:
                raise FileMetadataError(
                    "Distant resource does not have an ETag, we won't be able to reliably ensure reproducibility."
                )
        except (FileMetadataError, HfHubHTTPError) as error:
            # A mirror that stores files under its own origin: the HEAD ran on to a plain file server.
            listed = self._metadata_from_listing_instead(error, path, revision, url, timeout)
            if listed is None:
                raise
            return listed
        xet = answer.xet_file_data
        return FileMetadata(
            commit=answer.commit_hash,
            etag=answer.etag,
            size=credible_size(answer.size, answer.etag),
            xet_hash=None if xet is None else xet.file_hash,
            # For Xet files huggingface_hub asks again, and knows why.
            # And how bytes beyond ASCII were read cannot be told any more.
            location=answer.location
            if xet is None and answer.location not in {None, url} and answer.location.isascii()
            else None,
        )

    def _metadata_from_listing_instead(
        self, error: Exception, path: str, revision: str, url: str, timeout: float | None
    ) -> FileMetadata | None:
        if isinstance(error, HfHubHTTPError) and (
            str(error.response.url) == url or "X-Error-Code" in error.response.headers
        ):
            return None
        try:
            commit = revision if is_commit(revision) else self.resolve(revision, timeout=timeout)
            entry = self.paths_info([path], commit).get(path)
        except LISTING_ERRORS as second:
            logger.debug("Could not get the listing either, to replace the metadata of %s: %s", path, second)
            return None
        return None if entry is None else metadata_from_listing(commit, entry)

    def complete_metadata(
        self, listing: Mapping[str, ListedFile], commit: str, *, timeout: float | None
    ) -> tuple[KnownFiles, dict[str, Exception]]:
        """Return what a download needs of each file of a listing; requests only what the listing lacks.

        Returns:
            Metadata by path, and errors by path where a request failed.
        """
        listed = FileListing.of(listing)
        unlisted = listed.without_digest()
        if unlisted:
            lacking = set(unlisted)
            listed = listed.only(path for path in listed if path not in lacking)
        known: dict[str, FileMetadata] = {}
        failed: dict[str, Exception] = {}
        cancel_token = CancelToken()

        def ask(path: str) -> FileMetadata | Exception:
            try:
                return self.metadata(path, commit, timeout=timeout, retry=True, cancel_token=cancel_token)
            except Exception as error:  # noqa: BLE001  one file's failure must not stop the others
                return error

        for path, answer in in_threads(
            "hf-haul-metadata", _ASKING_THREADS, ask, unlisted, cancel_token.set
        ).items():
            if isinstance(answer, FileMetadata):
                known[path] = answer
            else:
                failed[path] = answer
        return KnownFiles(commit, listed, known), failed

    def remote_file(
        self, path: str, metadata: FileMetadata, sources: tuple[OtherSource, ...] = ()
    ) -> RemoteFile:
        """Return the file as the engine takes it: URL, size, digest, headers, other sources."""
        return RemoteFile(
            path=path,
            url=self.url(path, metadata.commit),
            size=metadata.size,
            digest=digest_from_etag(metadata.etag),
            etag=metadata.etag,
            headers=self._frozen_headers,
            trusted_origins=self.trusted_origins,
            xet_hash=metadata.xet_hash,
            location=metadata.location,
            network=client_network(),
            announced_by=self._shown_base,
            digest_is_etag=not metadata.listed,
            confirm=None if metadata.listed else self.confirmation(path, metadata.commit),
            uri=uri_of(self.repo_type, self.repo_id, metadata.commit, path),
            sources=sources,
        )

    @property
    def is_hub(self) -> bool:
        """Whether this is the Hub itself, not a mirror; see :func:`hf_haul.hub.tokens.is_hub`."""
        return is_hub(self.base)

    def confirmation(self, path: str, revision: str) -> Callable[[], Digest | None] | None:
        """Return what asks for the digest of a file, as ``RemoteFile.confirm`` does.

        The result is ``None`` where its etag is the digest.
        """
        return None if self.is_hub else _Confirmation(self, path, revision)

    def explain(self, path: str, commit: str, error: BaseException) -> BaseException:
        """Return the error that huggingface_hub raises when a server refuses a file in this way.

        Args:
            path: The file.
            commit: The commit it was asked for at.
            error: What the engine raised.

        Returns:
            huggingface_hub's error, or ``error`` itself if it is about anything but a refusal.
        """
        return explain(error, self.url(path, commit), path)


class _Confirmation:
    """Asks the Hub for a file's digest where the etag may be something else; remembers the answer."""

    def __init__(self, repository: Repository, path: str, commit: str) -> None:
        self._repository = repository
        self._path = path
        self._commit = commit
        self._answers: list[Digest | None] = []

    def __call__(self) -> Digest | None:
        if not self._answers:
            self._answers.append(self._ask())
        return self._answers[0]

    def _ask(self) -> Digest | None:
        try:
            entry = ask_once(lambda: self._repository.paths_info([self._path], self._commit)).get(self._path)
        except LISTING_ERRORS as error:
            if is_unanswered(error):
                raise
            logger.debug("Could not get the listing that has the digest of %s: %s", self._path, error)
            return None
        return None if entry is None else entry.digest
