"""All we use of huggingface_hub: revisions, listings, headers, URLs, exceptions, and its caches' formats."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import reprlib
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, unquote

from huggingface_hub import HfApi, RepoFile, constants, file_download, hf_hub_url
from huggingface_hub import RepoFolder as ListedFolder
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    are_progress_bars_disabled,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)
from huggingface_hub.utils import tqdm as hf_tqdm  # type: ignore[attr-defined]  # the same

from hf_haul.cancellation import CancelToken
from hf_haul.config import MiB, Settings
from hf_haul.descriptors import descriptors
from hf_haul.digests import Digest
from hf_haul.errors import HaltedError, HaulError, HttpStatusError, InvalidUrlError
from hf_haul.forks import call_after_fork, call_before_fork, renew_locks_of
from hf_haul.hub.client_network import ClientNetwork
from hf_haul.redaction import redacting
from hf_haul.storage.hub_cache import RepoFolder, ShareBlob
from hf_haul.storage.safe_paths import MOST_FOLDERS, require_safe_commit
from hf_haul.task import RemoteFile
from hf_haul.threads import in_threads
from hf_haul.transports.pacing import ServerWaits, parse_retry_after
from hf_haul.urls import HttpUrl, join_url, origin_of, parse_url, quote_header, redact

__all__ = [
    "PATIENT_TIMEOUT",
    "UNREACHABLE",
    "BadAnswerError",
    "BadListingError",
    "FileListing",
    "FileMetadata",
    "HubApi",
    "ListedFile",
    "ProxyError",
    "Repository",
    "RevisionInfo",
    "SamePageError",
    "ask_patiently",
    "asking",
    "bars_are_off",
    "cache_folder",
    "client_network",
    "confirmation",
    "detach_tracebacks",
    "digest_from_etag",
    "drop_tree",
    "entry_of",
    "explain",
    "is_busy",
    "is_commit",
    "is_listing_unknown",
    "is_not_served",
    "is_offline",
    "is_partial",
    "is_shared",
    "is_transient",
    "kept_entry",
    "leads_home",
    "make_bar",
    "metadata_from_listing",
    "missing_in_tree",
    "patient_timeout",
    "read_tree",
    "tree_folder",
    "tree_pages",
    "tree_url",
    "trusted_origins",
    "with_clients_headers",
    "write_tree",
]

logger = logging.getLogger(__name__)

# huggingface_hub 1.x speaks httpx and 2.x httpx2: its errors say which.
_http: Any = importlib.import_module(
    next(
        base for base in HfHubHTTPError.__mro__ if not base.__module__.startswith("huggingface_hub")
    ).__module__.partition(".")[0]
)
ProxyError: type[Exception] = _http.ProxyError

#: What huggingface_hub takes for "the Hub cannot be asked, look into the cache"; a ProxyError is none of it.
UNREACHABLE: Final[tuple[type[Exception], ...]] = (
    _http.ConnectError,
    _http.TimeoutException,
    OfflineModeIsEnabled,
    HfHubHTTPError,
)
#: What comes out where an answer is read that is none of a Hub: of other types, without what it must have, nested for ever.
_MISREAD: Final[tuple[type[Exception], ...]] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    _http.DecodingError,
    _http.InvalidURL,
)
_NO_LISTING: Final[tuple[type[Exception], ...]] = (*UNREACHABLE, FileMetadataError, *_MISREAD)
#: Connections that could not be made, or that broke.
_BROKEN_ERRORS: Final[tuple[type[Exception], ...]] = (_http.NetworkError, _http.RemoteProtocolError)
_TRANSIENT_ERRORS: Final[tuple[type[Exception], ...]] = (_http.TimeoutException, *_BROKEN_ERRORS)
_TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})

#: Seconds that a request about metadata may take once we know that only the Hub can help, see :func:`patient_timeout`.
#: A source that takes a minute to answer still does.
PATIENT_TIMEOUT: Final = 75.0
#: Bytes of the largest file that there can be.
_LARGEST: Final = (1 << 63) - 1
#: Seconds between attempts where the Hub names no time, as huggingface_hub waits.
_WAITS: Final = (1.0, 2.0, 4.0, 8.0, 8.0)
#: Threads that ask for the metadata of single files.
_ASKING_THREADS: Final = 8

#: Bytes of one page of a listing, as sent and inflated, and seconds that it may take. The Hub sends a thousand entries of a
#: few hundred bytes each.
_PAGE_BYTES: Final = 256 * MiB
_PAGE_SECONDS: Final = 300.0
#: Bytes that are inflated at a time.
_INFLATED: Final = MiB
#: Pages in a row without an entry that are followed by another.
_EMPTY_PAGES: Final = 100

#: Files asked about in one request. The Hub takes a thousand; mirrors ask it for one after the other.
_PATHS_AT_ONCE: Final = 100
#: Listings that huggingface_hub keeps in memory; it has all of them on disk.
_TREES_IN_MEMORY: Final = 8

#: Headers that no longer hold for a body that was decoded, or cut after its first bytes.
_ABOUT_THE_BODY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
#: The path of a file's URL, as ``hf_hub_url`` makes it.
_RESOLVED: Final = re.compile(
    r"/(?:(?P<kind>datasets|spaces|kernels)/)?(?P<repo_id>[^/?#]+(?:/[^/?#]+)?)/resolve/(?P<revision>[^/?#]+)/(?P<path>[^?#]+)"
)
_HEX: Final = frozenset("0123456789abcdef")
_XET_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")

#: Origins that huggingface_hub sends the token to besides the endpoint in use.
_HUB_ENDPOINTS: Final = ("https://huggingface.co", "https://hub-ci.huggingface.co", "https://hf.co")

#: Of ``hf-haul serve``: what kind of listing this is, and that it knows of a file, or of a listing, that it lacks.
_LISTING_HEADER: Final = "X-Haul-Listing"
_LISTING_UNKNOWN: Final = "ListingUnknown"
_ENTRY_NOT_SERVED: Final = "EntryNotServed"

T = TypeVar("T")


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit id, which cannot come to mean something else."""
    return _COMMIT.fullmatch(revision) is not None


def is_offline() -> bool:
    """Whether huggingface_hub was told to stay offline."""
    return bool(constants.is_offline_mode())


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT_STATUSES
    return isinstance(error, _TRANSIENT_ERRORS)


def is_busy(error: BaseException) -> bool:
    """Whether the Hub is there, but not able to answer right now. One that cannot be reached is not."""
    if isinstance(error, _http.ConnectTimeout):
        return False
    return is_transient(error) and isinstance(error, (HfHubHTTPError, _http.TimeoutException))


def is_listing_unknown(error: BaseException) -> bool:
    """Whether a server that has some of a commit's files says that it was never told which files there are."""
    return _error_code(error) == _LISTING_UNKNOWN


def is_not_served(error: BaseException) -> bool:
    """Whether a server that has some of a commit's files says that it lacks this one, which there may be elsewhere."""
    return _error_code(error) == _ENTRY_NOT_SERVED


def _error_code(error: BaseException) -> str | None:
    return error.response.headers.get("X-Error-Code") if isinstance(error, HfHubHTTPError) else None


def bars_are_off(cls: Any, name: str) -> bool:
    """Whether huggingface_hub was told to show no bars of this name, and the caller brings none of their own."""
    cls = cls or hf_tqdm
    ours = isinstance(cls, type) and issubclass(cls, hf_tqdm)
    return ours and bool(are_progress_bars_disabled(name))


def make_bar(cls: Any, name: str, **options: Any) -> Any:
    """A progress bar of the caller's class, or huggingface_hub's with its rules about terminals.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        name: What huggingface_hub's own bars are switched off by.
        options: What tqdm takes.
    """
    cls = cls or hf_tqdm
    if isinstance(cls, type) and issubclass(cls, hf_tqdm):
        options["disable"] = False if os.getenv("TQDM_POSITION") == "-1" else None
        options["name"] = name
    return cls(**options)


def detach_tracebacks(error: BaseException) -> None:
    """Drop the frames that an error and its causes keep alive, and with them what callers hold there."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = None
        pending += [current.__cause__, current.__context__]


def digest_from_etag(etag: str) -> Digest | None:
    """The digest that a Hub file's etag is: sha256 for LFS and Xet files, git's object id for the others.

    Returns:
        ``None`` where the etag is neither, as behind some mirrors.
    """
    if set(etag) <= _HEX and len(etag) in (40, 64):
        return Digest("sha256" if len(etag) == 64 else "git-sha1", etag)
    return None


def trusted_origins(url: str) -> frozenset[str]:
    """Origins that may receive a token meant for ``url``, as ``scheme://host:port``."""
    found = set()
    for each in (*_HUB_ENDPOINTS, constants.ENDPOINT, url):
        with suppress(InvalidUrlError):  # nothing is ever sent there
            found.add(origin_of(each))
    return frozenset(found)


#: Headers of a request that say nothing about who asks.
_ABOUT_NOBODY: Final = frozenset(
    {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "range",
        "x-amzn-trace-id",
        "content-length",
        "content-type",
        "transfer-encoding",
    }
)
#: Hooks of huggingface_hub's client that do nothing about the network.
_KNOWN_HOOKS: Final = frozenset({"hf_request_event_hook", "_keep_at_home"})
_origins_asked: Final[ContextVar[frozenset[str] | None]] = ContextVar("hf_haul_origins_asked", default=None)


def _keep_at_home(request: Any) -> None:
    """Take off a request what may be secret, if it leads elsewhere; a hook of huggingface_hub's client.

    huggingface_hub 1.x follows redirects of a file's metadata with the token, to any port of the same host.
    """
    allowed = _origins_asked.get()
    if allowed is None:  # the application's own
        return
    try:
        at_home = origin_of(str(request.url)) in allowed
    except InvalidUrlError:
        at_home = False
    if not at_home:
        for name in set(request.headers):
            if name.lower() not in _ABOUT_NOBODY:
                del request.headers[name]


def _drop_encoded_length(response: Any) -> None:
    """Leave out of the answer to a HEAD what a body of it would measure encoded; a hook of huggingface_hub's client.

    huggingface_hub takes it for the file's size, which is better learned from the bytes.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if (
        _origins_asked.get() is not None
        and response.request.method == "HEAD"
        and encoding not in {"", "identity"}
    ):
        response.headers.pop("Content-Length", None)


def _origins_at_home(base: str) -> frozenset[str]:
    """Where a redirect may take what is meant for ``base``: a mirror's http that leads to its https, as httpx has it, too."""
    home = trusted_origins(base)
    better = {
        f"https://{each[7:-3]}:443" for each in home if each.startswith("http://") and each.endswith(":80")
    }
    return home | better


def leads_home(url: str, target: str) -> bool:
    """Whether a redirect from ``url`` to ``target`` may be followed with the token."""
    try:
        return origin_of(target) in _origins_at_home(url)
    except InvalidUrlError:
        return False


_networks: Final[weakref.WeakKeyDictionary[Any, ClientNetwork]] = weakref.WeakKeyDictionary()


def client_network() -> ClientNetwork | None:
    """What the client of the user's own factory does about the network; ``None`` with huggingface_hub's own factory.

    Warns:
        UserWarning: Something of it cannot be carried over to the bytes; once for each client.
    """
    upstream = importlib.import_module("huggingface_hub.utils._http")
    factory = getattr(upstream, "_GLOBAL_CLIENT_FACTORY", None)
    if factory is getattr(upstream, "default_client_factory", None):
        return None
    client = get_session()
    network = _networks.get(client)
    if network is None:
        network = _networks[client] = ClientNetwork(client, _KNOWN_HOOKS)
    return network


def with_clients_headers(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers as the client of the user's own factory would send them to the Hub, its own and its cookies included."""
    network = client_network()
    return headers if network is None else MappingProxyType(network.headers_for(url, headers))


@contextmanager
def asking(base: str) -> Iterator[None]:
    """Have what huggingface_hub asks in this thread, while the block runs, told without secrets, and them sent home only.

    Args:
        base: The Hub's URL.
    """
    hooks = getattr(get_session(), "event_hooks", None)
    if isinstance(hooks, dict):
        for kind, hook in (("request", _keep_at_home), ("response", _drop_encoded_length)):
            if hook not in hooks.setdefault(kind, []):
                hooks[kind].append(hook)
    before = _origins_asked.set(_origins_at_home(base))
    try:
        with redacting():
            yield
    finally:
        _origins_asked.reset(before)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a listing, as the Hub sent it.

    Attributes:
        size: Bytes; of the pointer file, where ``lfs_size`` is given and differs.
        blob_id: Git's object id (of the pointer, for LFS files).
        lfs_sha256: sha256 of an LFS or Xet file.
        lfs_size: Its size in bytes.
        xet_hash: Its Xet hash.
    """

    size: int
    blob_id: str
    lfs_sha256: str | None = None
    lfs_size: int | None = None
    xet_hash: str | None = None

    @property
    def bytes(self) -> int:
        """Size of the content in bytes."""
        return self.size if self.lfs_size is None else self.lfs_size

    @property
    def digest(self) -> Digest | None:
        """The digest of the content, whose value is also the etag; ``None`` if the listing does not tell.

        A gated repository's listing may be redacted, and a mirror's may hold other ids.
        """
        if self.lfs_sha256 is not None:
            digest = digest_from_etag(self.lfs_sha256)
            return digest if digest is not None and digest.algorithm == "sha256" else None
        if self.xet_hash is not None:
            return None
        digest = digest_from_etag(self.blob_id)
        return digest if digest is not None and digest.algorithm == "git-sha1" else None

    @property
    def valid_xet_hash(self) -> str | None:
        """The Xet hash, unless redacted."""
        return self.xet_hash if self.xet_hash and _XET_HASH.fullmatch(self.xet_hash) else None


class FileListing(dict[str, ListedFile]):
    """The files of a commit by path.

    Attributes:
        partial: Whether the server said that it is not the Hub's own list; `serve` does so where somebody vouched
            for what there is.
    """

    partial = False

    def hear(self, response: Any) -> None:
        """Take notice of what an answer's headers say."""
        if str(response.headers.get(_LISTING_HEADER, "")).strip().lower() == "partial":
            self.partial = True


def is_partial(listing: Mapping[str, ListedFile]) -> bool:
    """Whether the server said that a listing is not the Hub's own: it is then good for one call, and is not kept."""
    return isinstance(listing, FileListing) and listing.partial


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """What a Hub says when it is asked for a revision.

    Attributes:
        commit: The commit that it is at.
        files: Names of files that the commit has; not all of them, where a Hub leaves some out.
    """

    commit: str
    files: frozenset[str]


def _siblings(info: Any) -> frozenset[str]:
    """The files that a repository's info names; huggingface_hub leaves those of a kernel as they came."""
    found = getattr(info, "siblings", None) or ()
    names = (each.get("rfilename") if isinstance(each, dict) else each.rfilename for each in found)
    return frozenset(name for name in names if isinstance(name, str))


def _listed_file(item: Mapping[str, Any]) -> ListedFile | None:
    """A file of a listing; ``None`` for a folder."""
    if item["type"] != "file":
        return None
    lfs = item.get("lfs")
    return ListedFile(
        size=item["size"],
        blob_id=item["oid"],
        lfs_sha256=lfs["oid"] if lfs else None,
        lfs_size=lfs["size"] if lfs else None,
        xet_hash=item.get("xetHash"),
    )


class SamePageError(FileMetadataError):
    """A listing that goes in a circle: asked for its next page, it gives one that was there before."""

    def __init__(self, base: str, entries: int, what: str) -> None:
        super().__init__(
            f"{redact(base)} lists only the first {entries} entries of {what!r} whichever page is asked for, and tells nothing of"
            " the others. Set HF_ENDPOINT to another mirror or to the Hub itself."
        )


class BadAnswerError(FileMetadataError):
    """An answer that is not what a Hub sends."""

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(
            f"the answer about {what} cannot be understood: {type(error).__name__}: {reprlib.repr(str(error))}. If it comes"
            " from a mirror or a proxy, set HF_ENDPOINT to another one or to the Hub itself."
        )


class BadListingError(FileMetadataError):
    """A page of a listing that is JSON, but not what a Hub sends."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"{redact(url)} cannot be read as a listing of files: {what}. If this is a mirror, set"
            " HF_ENDPOINT to another one or to the Hub itself."
        )


def _too_many(url: str, most: int) -> BadListingError:
    return BadListingError(
        url, f"it has more than {most} entries; HF_HAUL_MAX_LISTING sets how many are read at the most"
    )


def tree_url(base: str, repo_type: str, repo_id: str, revision: str, folder: str) -> str:
    """Where the listing of a folder is asked for."""
    url = f"{base}/api/{repo_type}s/{repo_id}/tree/{quote(revision, safe='')}"
    return f"{url}/{quote(folder, safe='')}" if folder else url


def tree_pages(
    base: str,
    url: str,
    headers: dict[str, str],
    *,
    recursive: bool,
    expand: bool = False,
    patient: bool = True,
    most: int | None = None,
    on_answer: Callable[[Any], None] | None = None,
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """The pages of a listing as the Hub sent them, and of each whether it is the last.

    All of them are asked of the same origin. Mirrors pass ``Link`` on as they got it. Followed to the letter it
    would lead past the mirror, and carry the token to whatever origin it names.

    Args:
        base: The Hub's URL.
        url: See :func:`tree_url`.
        headers: Sent with each request.
        recursive: Whether folders in the folder are listed too.
        expand: Whether to ask for commits and scans too.
        patient: Whether to try again where no connection is to be had at all.
        most: Entries that are read at the most; ``None`` for what the settings say.
        on_answer: Called with each answer's response.

    Raises:
        SamePageError: There are more pages, but this mirror gives one of them again and again.
        BadListingError: A page holds something else than a listing, or more than a listing may have.
        Exception: huggingface_hub's own errors.
    """
    params: dict[str, Any] | None = {"recursive": recursive, "expand": expand}
    most = Settings.from_environment().max_listing if most is None else most
    seen: set[str] = set()
    last: list[dict[str, Any]] = []
    first = url
    entries = empty = 0
    while url not in seen:
        seen.add(url)
        response, page = ask_patiently(
            partial(_page, base, url, params, headers), patient=patient, what=redact(url)
        )
        if on_answer is not None:
            on_answer(response)
        if page and page == last:
            break
        entries += len(page)
        empty = 0 if page else empty + 1
        if entries > most:
            raise _too_many(url, most)
        if empty > _EMPTY_PAGES:
            raise BadListingError(url, f"{empty} pages in a row have no entry, and each names another one")
        following = response.links.get("next", {}).get("url")
        yield page, following is None
        if following is None:
            return
        try:
            following = quote_header(following, response.headers.encoding)
            url = _at_home(base, join_url(parse_url(url, userinfo=True), following))
        except InvalidUrlError as error:
            raise BadListingError(url, f"its next page has no address that can be asked: {error}") from None
        params, last = None, page
    raise SamePageError(base, len(last), redact(first).rpartition("/tree/")[2])


def _page(
    base: str, url: str, params: dict[str, Any] | None, headers: dict[str, str]
) -> tuple[Any, list[dict[str, Any]]]:
    with asking(base):
        response = _get(url, params=params, headers=headers)
        _raise_for_status(response)
    try:
        page = response.json()
    except json.JSONDecodeError:
        raise  # somebody's web page, perhaps for a moment only
    except RecursionError:
        raise BadListingError(url, "its JSON is nested too deeply") from None
    except ValueError as error:  # bytes of no encoding, a number of thousands of digits
        raise BadListingError(url, f"{type(error).__name__}: {error}") from None
    fault = _fault_of_page(page)
    if fault is not None:
        raise BadListingError(url, fault)
    return response, page


def _get(url: str, *, params: dict[str, Any] | None, headers: dict[str, str]) -> Any:
    """Ask for a page of a listing; see :func:`_read`."""
    return _read(url, method="GET", params=params, headers=headers)


def _read(url: str, *, headers: dict[str, str], **request: Any) -> Any:
    """Ask for a page of a listing, and read no more of the answer than a page may have.

    Args:
        url: Where.
        headers: Sent with it.
        request: ``method``, and what else huggingface_hub's client takes.

    Raises:
        BadListingError: It is larger, or takes longer, or is encoded in a way that was not asked for.
    """
    headers = {**headers, "Accept-Encoding": "gzip"}  # what can be inflated piece by piece
    deadline = monotonic() + _PAGE_SECONDS
    body = bytearray()
    with get_session().stream(url=url, headers=headers, timeout=patient_timeout(), **request) as response:
        if response.is_stream_consumed:  # by a hook of the user's
            body += response.content
        else:
            for data in _inflated(url, response.iter_raw(), response.headers.get("Content-Encoding", "")):
                body += data
                if len(body) > _PAGE_BYTES:
                    raise BadListingError(url, f"one page of it has more than {_PAGE_BYTES >> 20} MiB")
                if monotonic() > deadline:
                    raise BadListingError(url, f"one page of it takes more than {_PAGE_SECONDS:.0f} s")
        return _http.Response(
            response.status_code,
            headers=[
                (k, v) for k, v in response.headers.raw if k.lower().decode("latin-1") not in _ABOUT_THE_BODY
            ],
            content=bytes(body),
            request=response.request,
        )


def _inflated(url: str, pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """A body as it was before it was compressed, in pieces of a bounded size."""
    if encoding.strip().lower() in {"", "identity"}:
        yield from pieces
        return
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        raise BadListingError(
            url, f"its Content-Encoding is {reprlib.repr(encoding)}, which was not asked for"
        )
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either kind, by its first bytes
    try:
        for piece in pieces:
            rest = piece
            while rest:
                yield inflate.decompress(rest, _INFLATED)
                rest = inflate.unconsumed_tail
        yield inflate.flush()
    except zlib.error as error:
        raise BadListingError(url, f"it is not what its Content-Encoding says: {error}") from None


def _fault_of_page(page: object) -> str | None:
    """What a page of a listing lacks to be one; ``None`` if nothing."""
    if not isinstance(page, list):
        return f"expected a list, got {reprlib.repr(page)}"
    for item in page:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            return f"an entry without a path: {reprlib.repr(item)}"
        fault = _fault_of_entry(item)
        if fault is not None:
            return f"{reprlib.repr(item['path'])} {fault}"
    return None


def _fault_of_entry(item: Mapping[str, Any]) -> str | None:
    if not _is_text(item["path"]):
        return "is no text"
    if item["path"].count("/") > MOST_FOLDERS:
        return f"is in more than {MOST_FOLDERS} folders"
    if not isinstance(item.get("type"), str):
        return "has no type"
    if item["type"] != "file":
        return None
    lfs = item.get("lfs")
    for each in (item, *([lfs] if lfs else ())):
        if not isinstance(each, dict) or not isinstance(each.get("oid"), str):
            return "has no object id"
        # A bool is an int to Python, but no size.
        if type(each.get("size")) is not int or not 0 <= each["size"] <= _LARGEST:
            return f"has a size of {reprlib.repr(each.get('size'))}"
    if not isinstance(item.get("xetHash"), str | None):
        return f"has a Xet hash of {reprlib.repr(item['xetHash'])}"
    return None


def _is_text(name: str) -> bool:
    """Whether a name can be written anywhere; half a pair of surrogates cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise_for_status(response: Any) -> None:
    """Raise huggingface_hub's error for an answer that refuses, also where it cannot read what the answer says of it."""
    try:
        hf_raise_for_status(response)
    except HfHubHTTPError:
        raise
    except _MISREAD as error:
        raise HfHubHTTPError(
            f"Status {response.status_code} for url {redact(str(response.url))}; what it says of the reason cannot be"
            f" understood: {type(error).__name__}",
            response=response,
        ) from error


@contextmanager
def _understanding(what: str) -> Iterator[None]:
    """Have an answer that is none of a Hub end in an error that names it.

    Raises:
        BadAnswerError: It was read, and something was amiss.
    """
    try:
        yield
    except (
        HaulError,
        HFValidationError,
        json.JSONDecodeError,
    ):  # the last may be a captive portal's, and pass
        raise
    except _MISREAD as error:
        raise BadAnswerError(what, error) from error


def patient_timeout() -> float:
    """Seconds that the Hub may take to answer where only it can help: what ``HF_HUB_ETAG_TIMEOUT`` says, if it is set."""
    if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
        return float(constants.HF_HUB_ETAG_TIMEOUT)
    return PATIENT_TIMEOUT


class HubApi(HfApi):
    """huggingface_hub's own API, which ends every wait, and whose errors name an answer that is none of a Hub."""

    def repo_info(self, repo_id: str, **options: Any) -> Any:
        """As in huggingface_hub."""
        if options.get("timeout") is None:  # for ever
            options["timeout"] = patient_timeout()
        with asking(self.endpoint), _understanding(f"{redact(self.endpoint)}/{repo_id}"):
            info = super().repo_info(repo_id, **options)
            sha: object = info.sha
            if sha is not None and not (isinstance(sha, str) and _is_text(sha)):
                raise TypeError(f"its commit is {reprlib.repr(sha)}")
            return info

    def get_paths_info(
        self,
        repo_id: str,
        paths: list[str] | str,
        *,
        expand: bool = False,
        revision: str | None = None,
        repo_type: str | None = None,
        token: str | bool | None = None,
    ) -> list[RepoFile | ListedFolder]:
        """As in huggingface_hub, which waits for ever."""
        url = f"{self.endpoint}/api/{repo_type or constants.REPO_TYPE_MODEL}s/{repo_id}/paths-info"
        url = f"{url}/{quote(revision or constants.DEFAULT_REVISION, safe='')}"
        data = {"paths": [paths] if isinstance(paths, str) else paths, "expand": expand}
        with asking(self.endpoint):
            response = _read(url, method="POST", data=data, headers=self._build_hf_headers(token=token))
            _raise_for_status(response)
        with _understanding(redact(url)):
            page = response.json()
        fault = _fault_of_page(page)
        if fault is not None:
            raise BadListingError(url, fault)
        return [entry_of(url, item) for item in page]


def entry_of(url: str, item: dict[str, Any]) -> RepoFile | ListedFolder:
    """An entry of a listing as huggingface_hub has it.

    Raises:
        BadAnswerError: Something in it is not what a Hub sends.
    """
    with _understanding(f"{reprlib.repr(item['path'])} in {redact(url)}"):
        make: Any = RepoFile if item["type"] == "file" else ListedFolder
        entry: RepoFile | ListedFolder = make(**{"oid": "", **item})
        return entry


def _at_home(base: str, page: HttpUrl) -> str:
    """The same page, asked of our own endpoint."""
    home = parse_url(base, userinfo=True)
    if page.origin == home.origin:
        target = page.target
    else:
        start = page.path.find("/api/")
        target = home.path.rstrip("/") + page.target[max(start, 0) :]
    return replace(home, target=target).with_userinfo


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What is known of one file at one commit.

    Attributes:
        commit: The commit.
        etag: The version of the content; the name of its blob in the cache.
        size: Bytes, or ``None`` if the server did not say.
        xet_hash: The Xet hash, where there is one.
        location: Where a download would be redirected to, if asked just now.
        listed: Whether the etag is the digest that a listing tells, and not one of an answer's headers.
    """

    commit: str
    etag: str
    size: int | None
    xet_hash: str | None = None
    location: str | None = field(default=None, repr=False)  # it may be signed
    listed: bool = field(default=False, compare=False)


class _cached_property(Generic[T]):  # noqa: N801  used like functools' own
    """``functools.cached_property`` without a lock.

    Until Python 3.11 that of functools holds one over all instances; a child forked meanwhile waits for it for ever.
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
    """

    repo_id: str
    repo_type: str = "model"
    endpoint: str | None = field(default=None, repr=False)  # it may hold a password
    token: bool | str | None = field(default=None, repr=False)
    library_name: str | None = None
    library_version: str | None = None
    user_agent: dict[str, Any] | str | None = None
    headers: dict[str, str] | None = field(default=None, repr=False)

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
        return with_clients_headers(self.base, MappingProxyType(self.request_headers))

    @property
    def base(self) -> str:
        """The Hub's URL, without a slash at its end."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    @_cached_property
    def trusted_origins(self) -> frozenset[str]:
        """Origins that may receive the token, as ``scheme://host:port``."""
        return trusted_origins(self.base)

    @property
    def folder_name(self) -> str:
        """The repository's folder in a cache."""
        return str(repo_folder_name(repo_id=self.repo_id, repo_type=self.repo_type))

    @_cached_property
    def _api(self) -> HfApi:
        return HubApi(endpoint=self.base, token=self.token, headers=self.request_headers)

    def url(self, path: str, revision: str) -> str:
        """Where to ask for a file."""
        url: str = hf_hub_url(
            self.repo_id,
            path,
            repo_type=self.repo_type,
            revision=revision,
            endpoint=self.base,
        )
        return url

    def resolve(self, revision: str, *, timeout: float | None, patient: bool = False) -> str:
        """The commit that a branch, tag or pull request is at.

        Args:
            revision: What the user asked for.
            timeout: Seconds for one attempt.
            patient: Whether to try again after an error that may pass.

        Raises:
            UnsafePathError: The commit cannot be the name of a folder.
            Exception: huggingface_hub's own errors.
        """
        return self.look_up(revision, timeout=timeout, patient=patient).commit

    def look_up(self, revision: str, *, timeout: float | None, patient: bool = False) -> RevisionInfo:
        """What the Hub says of a revision; see `resolve`."""

        def ask() -> RevisionInfo:
            info = self._api.repo_info(
                self.repo_id, repo_type=self.repo_type, revision=revision, timeout=timeout
            )
            with _understanding(f"{redact(self.base)}/{self.repo_id}"):
                assert info.sha is not None, "Repo info returned from server must have a revision sha."
                return RevisionInfo(require_safe_commit(info.sha), _siblings(info))

        what = f"{redact(self.base)}/{self.repo_id}"
        return ask_patiently(ask, what=what) if patient else _surely(ask, what)

    def list_files(
        self, commit: str, *, patient: bool = True, most: int | None = None
    ) -> dict[str, ListedFile]:
        """Every file of a commit, by path; see also `is_partial`.

        Some mirrors (olah) answer with the first page whichever page is asked for. Then each folder is asked for
        on its own, and what is left of a folder of more than a page is taken from the repository's info.

        Args:
            commit: The commit, or any revision.
            patient: Whether to try again where no connection is to be had at all.
            most: Entries that are read at the most; ``None`` for what the settings say.

        Raises:
            SamePageError: A mirror keeps some of the files to itself.
            BadListingError: A page holds something else than a listing, or more than a listing may have.
            Exception: huggingface_hub's own errors.
        """
        most = Settings.from_environment().max_listing if most is None else most
        found = FileListing()
        for entries, (path, entry) in enumerate(
            self._entries(commit, "", recursive=True, patient=patient, most=most, on_answer=found.hear), 1
        ):
            if entries > most:
                raise _too_many(f"{self.base}/{self.repo_id}", most)
            if entry is not None:
                found[path] = entry
        return found

    def _entries(
        self, commit: str, folder: str, *, recursive: bool, **how: Any
    ) -> Iterator[tuple[str, ListedFile | None]]:
        """What is in a folder; its folders have ``None`` for an entry."""
        found: dict[str, ListedFile | None] = {}
        try:
            for page in self._pages(commit, folder, recursive=recursive, **how):
                found.update((item["path"], _listed_file(item)) for item in page)
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
        self, commit: str, folder: str, listed: Mapping[str, ListedFile | None]
    ) -> Iterator[tuple[str, ListedFile]]:
        """The files of a folder that its listing leaves out, except those in folders it has."""
        info = ask_patiently(
            lambda: self._api.repo_info(
                self.repo_id, repo_type=self.repo_type, revision=commit, timeout=patient_timeout()
            )
        )
        start = f"{folder}/" if folder else ""
        names = [
            name
            for name in _siblings(info)
            if name.startswith(start) and start + name[len(start) :].partition("/")[0] not in listed
        ]
        told: dict[str, ListedFile] = {}
        for first in range(0, len(names), _PATHS_AT_ONCE):
            some = names[first : first + _PATHS_AT_ONCE]
            told.update(ask_patiently(partial(self.single_files, some, commit)))
        if not names or told.keys() != set(names):
            raise SamePageError(self.base, len(listed), folder or self.repo_id)
        yield from told.items()

    def single_files(self, paths: list[str], commit: str) -> dict[str, ListedFile]:
        """What the Hub says of single files; those it does not know are left out."""
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
            **how,
        )
        return (page for page, _ in pages)

    def metadata(
        self,
        path: str,
        revision: str,
        *,
        timeout: float | None,
        patient: bool = False,
        cancel_token: CancelToken | None = None,
    ) -> FileMetadata:
        """Ask for one file's commit, etag and size.

        Args:
            path: The file.
            revision: Any revision.
            timeout: Seconds for one attempt.
            patient: Whether to try again after an error that may pass.
            cancel_token: Ends the waits between attempts.

        Raises:
            FileMetadataError: The answer lacks what a Hub sends.
            HaltedError: It was halted.
            Exception: huggingface_hub's other errors.
        """
        url = self.url(path, revision)

        def ask() -> Any:
            with asking(self.base), _understanding(redact(url)):
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
                ask_patiently(ask, patient=True, cancel_token=cancel_token) if patient else _surely(ask, path)
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
            listed = self._listed_instead(error, path, revision, url, timeout)
            if listed is None:
                raise
            return listed
        xet = answer.xet_file_data
        return FileMetadata(
            commit=answer.commit_hash,
            etag=answer.etag,
            size=_credible_size(answer.size, answer.etag),
            xet_hash=None if xet is None else xet.file_hash,
            # For Xet files huggingface_hub asks again, and knows why.
            # And how bytes beyond ASCII were read cannot be told any more.
            location=answer.location
            if xet is None and answer.location not in {None, url} and answer.location.isascii()
            else None,
        )

    def _listed_instead(
        self, error: Exception, path: str, revision: str, url: str, timeout: float | None
    ) -> FileMetadata | None:
        if isinstance(error, HfHubHTTPError) and (
            str(error.response.url) == url or "X-Error-Code" in error.response.headers
        ):
            return None
        try:
            commit = revision if is_commit(revision) else self.resolve(revision, timeout=timeout)
            entry = self.single_files([path], commit).get(path)
        except _NO_LISTING as second:
            logger.debug("No listing to make up for the metadata of %s: %s", path, second)
            return None
        return None if entry is None else metadata_from_listing(commit, entry)

    def complete(
        self, listing: Mapping[str, ListedFile], commit: str, *, timeout: float | None
    ) -> tuple[dict[str, FileMetadata], dict[str, Exception]]:
        """What is needed to download each file of a listing, with a request only where the listing lacks it.

        Returns:
            Metadata by path, and the errors of the files that had to be asked for and could not be.
        """
        known: dict[str, FileMetadata] = {}
        unclear: list[str] = []
        for path, entry in listing.items():
            found = metadata_from_listing(commit, entry)
            if found is None:
                unclear.append(path)
            else:
                known[path] = found
        failed: dict[str, Exception] = {}
        cancel_token = CancelToken()

        def ask(path: str) -> FileMetadata | Exception:
            try:
                return self.metadata(path, commit, timeout=timeout, patient=True, cancel_token=cancel_token)
            except Exception as error:  # noqa: BLE001  one file's failure must not stop the others
                return error

        for path, answer in in_threads(
            "hf-haul-metadata", _ASKING_THREADS, ask, unclear, cancel_token.set
        ).items():
            if isinstance(answer, FileMetadata):
                known[path] = answer
            else:
                failed[path] = answer
        return known, failed

    def remote_file(self, path: str, metadata: FileMetadata) -> RemoteFile:
        """The file as the engine wants it: where it is, what it measures and hashes to."""
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
            announced_by=redact(self.base),
            digest_is_etag=not metadata.listed,
            confirm=None if metadata.listed or self.is_hub else _Confirmation(self, path, metadata.commit),
        )

    @property
    def is_hub(self) -> bool:
        """Whether this is the Hub itself, whose etags are what they look like."""
        try:
            return origin_of(self.base) in {origin_of(each) for each in _HUB_ENDPOINTS}
        except InvalidUrlError:
            return False

    def explain(self, path: str, commit: str, error: BaseException) -> BaseException:
        """The error that huggingface_hub raises for what a server said when it refused a file.

        Args:
            path: The file.
            commit: The commit it was asked for at.
            error: What the engine raised.

        Returns:
            huggingface_hub's error, or ``error`` itself if it is about anything but a refusal.
        """
        return explain(error, self.url(path, commit), path)


class _Confirmation:
    """Asks what a file's digest is, where its etag is not that of its bytes; once there was an answer, no more."""

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
            entry = _once(lambda: self._repository.single_files([self._path], self._commit)).get(self._path)
        except _NO_LISTING as error:
            if is_transient(error):
                raise
            logger.debug("No listing to tell the digest of %s: %s", self._path, error)
            return None
        return None if entry is None else entry.digest


def confirmation(url: str, headers: dict[str, str]) -> Callable[[], Digest | None] | None:
    """Asks what the digest of the file at ``url`` is, as ``RemoteFile.confirm`` does.

    Args:
        url: Where it is downloaded from.
        headers: Sent with the question.

    Returns:
        ``None`` where the URL does not say which file of which repository it is, or where it is the Hub's own.
    """
    base = constants.ENDPOINT.rstrip("/")
    if not url.startswith(f"{base}/"):
        base = "/".join(url.split("/", 3)[:3])
    match = _RESOLVED.fullmatch(url[len(base) :])
    if match is None:
        return None
    repository = Repository(
        match["repo_id"], (match["kind"] or "models")[:-1], endpoint=base, token=False, headers=headers
    )
    return (
        None
        if repository.is_hub
        else _Confirmation(repository, unquote(match["path"]), unquote(match["revision"]))
    )


def explain(error: BaseException, url: str, path: str = "") -> BaseException:
    """The error that huggingface_hub raises for what a server said when it refused ``url``.

    Args:
        error: What the engine raised.
        url: What was asked for.
        path: The file's name, which a storage does not know, and so says nothing of it.

    Returns:
        huggingface_hub's error, or ``error`` itself if it is about anything but a refusal.
    """
    if not isinstance(error, HttpStatusError):
        return error
    kept = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in error.headers.items()
        if name.lower() not in _ABOUT_THE_BODY
    ]
    response = _http.Response(
        error.status, headers=kept, content=error.body, request=_http.Request("GET", error.url or url)
    )
    try:
        _raise_for_status(response)
    except HfHubHTTPError as explained:
        if path not in str(explained) and quote(path) not in str(explained):
            explained.append_to_message(f"\nThe file is {path!r}.")
        return explained
    return error


def metadata_from_listing(commit: str, entry: ListedFile) -> FileMetadata | None:
    """Metadata as a HEAD would tell it, or ``None`` if the listing does not hold them."""
    digest = entry.digest
    if digest is None:
        return None
    size = _credible_size(entry.bytes, digest.value)
    return FileMetadata(
        commit=commit, etag=digest.value, size=size, xet_hash=entry.valid_xet_hash, listed=True
    )


def _credible_size(size: int | None, etag: str) -> int | None:
    """A size as it was announced; ``None``, to be learned anew, where it cannot be that of the file."""
    if size is None or not 0 <= size <= _LARGEST:
        return None
    digest = digest_from_etag(etag)
    # Some say 0 for "unknown".
    return None if size == 0 and digest is not None and not digest.is_of_nothing else size


def ask_patiently(
    ask: Callable[[], T],
    *,
    patient: bool = False,
    what: str = "a repository",
    cancel_token: CancelToken | None = None,
) -> T:
    """Ask until there is an answer, an error that will not pass, or no attempt left.

    A Hub that is busy is waited for, as long as it says and as ``ServerWaits`` allows; one that lets every question time out
    is asked twice only, because each takes long enough.

    Args:
        ask: The question.
        patient: Whether to ask again, too, where no connection is to be had at all.
        what: What is asked about, for messages.
        cancel_token: Ends the waits; a thread that Ctrl+C does not reach needs one.
    """
    return _ask(ask, busy=True, patient=patient, what=what, cancel_token=cancel_token)


def _surely(ask: Callable[[], T], what: str) -> T:
    """Ask again where a connection broke, or where the answer is somebody's web page: a captive portal's, for instance."""
    return _ask(ask, busy=False, patient=False, what=what, cancel_token=None)


def _ask(
    ask: Callable[[], T], *, busy: bool, patient: bool, what: str, cancel_token: CancelToken | None
) -> T:
    ask = partial(descriptors.patiently, ask, None if cancel_token is None else cancel_token.check)
    server_waits = ServerWaits()
    slow = False
    for wait in _WAITS:
        seconds = wait
        try:
            return _once(ask)
        except json.JSONDecodeError:
            why = "the Hub answered with something that is not JSON"
        except HfHubHTTPError as error:
            if not busy or not is_busy(error):
                raise
            granted = _seconds_until_asked_again(error, wait, server_waits)
            if granted is None:
                raise
            seconds = granted
            why = f"the Hub is busy (status {error.response.status_code})"
        except _http.TimeoutException as error:
            connects = isinstance(error, _http.ConnectTimeout)
            if not (patient if connects else busy and not slow):
                raise
            slow = slow or not connects
            why = f"no answer from the Hub ({type(error).__name__})"
        except _BROKEN_ERRORS as error:
            if isinstance(error, _http.ConnectError) and not patient:
                raise
            why = type(error).__name__
        logger.warning("%s: asking again in %.0f s", why, seconds)
        _pause(seconds, cancel_token)
    return _ask_once_more(ask, what)


def _pause(seconds: float, cancel_token: CancelToken | None) -> None:
    if cancel_token is None:
        time.sleep(seconds)
    elif cancel_token.wait(seconds):
        raise HaltedError


def _ask_once_more(ask: Callable[[], T], what: str) -> T:
    try:
        return _once(ask)
    except json.JSONDecodeError as error:
        raise BadAnswerError(what, error) from error


def _once(ask: Callable[[], T]) -> T:
    try:
        with redacting():
            return ask()
    except _http.TimeoutException as error:
        error.args = (f"{error} (HF_HUB_ETAG_TIMEOUT sets how long is waited)", *error.args[1:])
        raise


def _seconds_until_asked_again(error: HfHubHTTPError, wait: float, server_waits: ServerWaits) -> float | None:
    """What a busy Hub asks for, but never less than without a word; ``None`` if it has had its time."""
    status = error.response.status_code
    asked = parse_retry_after(status, error.response.headers)
    if asked is None:
        return wait
    granted = server_waits.grant(asked, counts_requests=status == 429)
    return None if granted is None else max(granted, wait)


def cache_folder(repository: Repository, cache_dir: str) -> RepoFolder:
    """The repository's folder in a Hub cache, with huggingface_hub's own answers about symlinks and sharing."""
    root = os.path.join(cache_dir, repository.folder_name)
    return RepoFolder(
        cache_dir,
        repository.folder_name,
        symlinks=lambda: bool(file_download.are_symlinks_supported(root)),
        share=_shared_store(cache_dir),
    )


def _shared_store(cache_dir: str) -> ShareBlob | None:
    """A reader of the blob store that repositories share (huggingface_hub 2.x); nothing we fetch goes into it."""
    try:
        store = importlib.import_module("huggingface_hub.utils._shared_blobs")
        enabled = store.shared_blobs_enabled()
        link = store.try_link_from_shared_store
    except (ImportError, AttributeError):
        return None
    if not enabled or not os.path.isdir(os.path.join(cache_dir, "blobs")):
        return None

    def share(blob: str, xet_hash: str, size: int | None) -> bool:
        return bool(
            file_download.are_symlinks_supported(cache_dir)
            and link(blob_path=blob, xet_hash=xet_hash, cache_dir=cache_dir, expected_size=size)
        )

    return share


def is_shared(cache_dir: str, metadata: FileMetadata) -> bool:
    """Whether the blob store that repositories share has a file; does not touch the cache."""
    try:
        store = importlib.import_module("huggingface_hub.utils._shared_blobs")
        known = store.has_shared_blob
    except (ImportError, AttributeError):
        return False
    return (
        metadata.xet_hash is not None
        and not constants.HF_HUB_DISABLE_SYMLINKS
        and bool(known(xet_hash=metadata.xet_hash, cache_dir=cache_dir, expected_size=metadata.size))
    )


def _tree_cache() -> Any:
    try:
        return importlib.import_module("huggingface_hub._tree_cache")
    except ImportError:
        return None


def tree_folder(repo_folder: str, local_dir: str | None) -> str:
    """Where huggingface_hub keeps the listings of a repository's commits."""
    return repo_folder if local_dir is None else os.path.join(local_dir, ".cache", "huggingface")


def read_tree(folder: str, commit: str) -> dict[str, ListedFile] | None:
    """The listing of a commit, if huggingface_hub or we kept it.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
    """
    entries = _kept_entries(folder, commit)
    return None if entries is None else {path: _kept(entry) for path, entry in entries.items()}


def kept_entry(folder: str, commit: str, path: str) -> ListedFile | None:
    """One file of a kept listing, without a copy of all others; ``None`` if no listing was kept, or it lacks the file.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        path: The file.
    """
    entry = (_kept_entries(folder, commit) or {}).get(path)
    return None if entry is None else _kept(entry)


def _kept_entries(folder: str, commit: str) -> Mapping[str, Any] | None:
    cache = _tree_cache()
    if cache is None or not os.path.isfile(_tree_path(folder, commit)):
        return None  # whatever huggingface_hub still has in memory: somebody dropped it
    entries: Mapping[str, Any] | None = cache.read_tree_cache(folder, commit)
    _forget_old_trees(cache)
    return entries


def _forget_old_trees(cache: Any) -> None:
    """Have huggingface_hub keep only the latest listings in memory; it would keep each one of every folder, for ever."""
    memory, lock = (
        getattr(cache, "_IN_MEMORY_TREE_CACHE", None),
        getattr(cache, "_IN_MEMORY_TREE_CACHE_LOCK", None),
    )
    if isinstance(memory, dict) and lock is not None:
        with lock:
            for oldest in list(memory)[:-_TREES_IN_MEMORY]:
                del memory[oldest]


def _kept(entry: Any) -> ListedFile:
    return ListedFile(entry.size, entry.blob_id, entry.lfs_sha256, entry.lfs_size, entry.xet_hash)


def missing_in_tree(folder: str, commit: str, names: Collection[str]) -> str | None:
    """One of some files that the kept listing of a commit lacks; ``None`` if it has them, or if there is no listing.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        names: Files that the Hub has just named as files of the commit.
    """
    path = _tree_path(folder, commit)
    try:
        about = os.stat(path)
        kept = _names_kept(path, about.st_mtime_ns, about.st_size)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # nobody uses one that cannot be read
    return next((name for name in names if name not in kept), None)


def drop_tree(folder: str, commit: str, lacking: str) -> None:
    """Drop the kept listing of a commit: it was not the Hub's, or not all of it, and hides files from whoever uses it.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        lacking: A file that it lacks.
    """
    path = _tree_path(folder, commit)
    logger.warning("The listing kept in %s is dropped: it lacks %s", path, lacking)
    with contextlib.suppress(OSError):
        os.unlink(path)
    memory = getattr(_tree_cache(), "_IN_MEMORY_TREE_CACHE", None)  # upstream's copy goes with it
    if isinstance(memory, dict):
        memory.pop(path, None)


@lru_cache(maxsize=4)
def _names_kept(path: str, mtime_ns: int, size: int) -> frozenset[str]:  # noqa: ARG001  they tell a new one from the old
    """The files of a kept listing."""
    with open(path, encoding="utf-8") as file:
        return frozenset(json.load(file)["files"])


def _tree_path(folder: str, commit: str) -> str:
    """Where huggingface_hub keeps the listing of a commit."""
    name = os.path.join(folder, "trees", f"{commit}.json")
    place = getattr(_tree_cache(), "_tree_cache_path", None)  # it lengthens long paths on Windows
    return name if place is None else str(place(folder, commit))


def write_tree(folder: str, commit: str, listing: Mapping[str, ListedFile]) -> None:
    """Keep the listing of a commit as huggingface_hub does, so that both find it offline.

    Redacted listings are not kept, and failures are ignored: huggingface_hub's rules.
    """
    cache = _tree_cache()
    if cache is not None:
        cache.write_tree_cache(
            folder,
            commit,
            {
                path: cache.TreeCacheEntry(
                    size=e.size,
                    blob_id=e.blob_id,
                    lfs_sha256=e.lfs_sha256,
                    lfs_size=e.lfs_size,
                    xet_hash=e.xet_hash,
                )
                for path, e in listing.items()
            },
        )
        _forget_old_trees(cache)


_upstream_http: Final[Any] = importlib.import_module("huggingface_hub.utils._http")
#: Seconds that a fork waits for another thread to make huggingface_hub's client.
_FORK_SECONDS: Final = 1.0
#: For each thread that forks right now, huggingface_hub's client and the lock it holds meanwhile.
_forking: Final[list[tuple[Any, Any]]] = []


def _spare_client() -> None:
    """Have huggingface_hub's client stay as it is in a child that is forked now, and none be in the making.

    huggingface_hub closes it there, and so waits, for ever, for a lock of the client's that another thread may hold at the
    fork. The child makes one of its own anyway. To make one takes locks of OpenSSL's, which nobody can make anew.
    """
    lock = getattr(_upstream_http, "_CLIENT_LOCK", None)
    held = lock is not None and lock.acquire(timeout=_FORK_SECONDS)
    client = getattr(_upstream_http, "_GLOBAL_CLIENT", None)
    _forking.append((client, lock if held else None))
    if client is not None:
        client.close = _do_nothing


def _release_client() -> None:
    client, lock = _forking.pop()
    if lock is not None:
        lock.release()
    if client is not None and all(client is not other for other, _ in _forking):
        vars(client).pop("close", None)


def _do_nothing() -> None:
    pass


def _renew_bar_locks() -> None:
    """A thread that moves a bar holds a lock of tqdm's meanwhile; the half of it that is for processes stays as it is."""
    fresh = threading.RLock()
    for cls in hf_tqdm.__mro__:
        lock: Any = vars(cls).get("_lock")
        if isinstance(lock, type(fresh)):
            cls._lock = fresh  # type: ignore[attr-defined]  # tqdm's, as is th_lock
        elif hasattr(type(lock), "th_lock") and hasattr(lock, "locks"):
            type(lock).th_lock = fresh
            lock.locks = [fresh if isinstance(each, type(fresh)) else each for each in lock.locks]


call_before_fork(_spare_client, _release_client)
renew_locks_of("huggingface_hub")
renew_locks_of("_strptime")  # the standard library's, for dates
call_after_fork(_renew_bar_locks)
