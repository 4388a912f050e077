"""huggingface_hub's filesystem, with the paths and listings of a branch pinned to the commit first seen."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from fsspec.utils import stringify_path
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_file_system import HfFileSystemResolvedBucketPath, HfFileSystemResolvedRepositoryPath

from hf_haul.filesystem.beside import FilesBeside
from hf_haul.filesystem.folders import FolderListings, group_by_folder
from hf_haul.filesystem.freshness import Freshness, drop_oldest
from hf_haul.filesystem.pinned import Pin, PinnedApi, pin_of
from hf_haul.hub.asking import is_listing_unknown
from hf_haul.hub.fallback import detach_tracebacks
from hf_haul.hub.metadata import is_commit

__all__ = ["PinnedFileSystem", "ResolvedPath"]

#: fsspec's options that say how long a listing is good.
_CACHE_OPTIONS: Final = ("use_listings_cache", "listings_expiry_time")
#: What makes a listing another one than that of a folder at the commit that is known.
_NOT_PLAIN: Final = ("recursive", "refresh", "expand_info", "maxdepth")
#: Files of which more was asked than a listing says, and that are remembered.
_EXPANSIONS: Final = 4096
#: Revisions whose listings are remembered.
_REVISIONS: Final = 64
#: Repositories, revisions and buckets of which it is remembered whether they exist, and why not.
_EXISTING: Final = 1000

ResolvedPath = HfFileSystemResolvedRepositoryPath | HfFileSystemResolvedBucketPath


class PinnedFileSystem(HfFileSystem):
    """Paths and listings of the Hub, each branch as it was when first used, until a call asks for the latest.

    Args:
        endpoint: The Hub's URL.
        token: As in huggingface_hub.
        options: Further options of huggingface_hub's class and fsspec's.
    """

    def __init__(
        self,
        *args: Any,
        endpoint: str | None = None,
        token: bool | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, endpoint=endpoint, token=token, **options)
        cache_options = {name: options[name] for name in _CACHE_OPTIONS if name in options}
        self._freshness = Freshness(**cache_options)
        self._api: PinnedApi = PinnedApi(self._freshness, endpoint=endpoint, token=token)
        self._expansions: dict[str, tuple[str | None, dict[str, Any]]] = {}
        self._index: dict[str, tuple[Any, int, dict[str, dict[str, Any]]]] = {}
        self._roots: dict[str, None] = {}  # of listings, the latest last
        self._folders = FolderListings()
        self._beside = FilesBeside()
        self._finding = threading.local()  # whether a thread is in :meth:`find`, as ``now``

    @property
    def fsid(self) -> str:
        """An identifier that all instances for the same Hub share."""
        return f"hf_{self.endpoint}"

    # ---- names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Remove ``haul://`` and ``hf://``, so that paths of both filesystems are understood."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        for prefix in ("hf://", "hf::", "haul://", "haul::"):
            path = path.removeprefix(prefix)
        return super()._strip_protocol(path)

    def unstrip_protocol(self, name: str) -> str:
        """Return the path as a URL."""
        return str(super().unstrip_protocol(self._strip_protocol(name)))

    def resolve_path(self, path: str, revision: str | None = None) -> ResolvedPath:
        """Resolve a path like :class:`huggingface_hub.HfFileSystem`.

        Ask where its branch is now, if that is due.
        """
        if self._freshness.wants_latest:
            # What was absent may be there by now.
            for known in (self._repo_and_revision_exists_cache, self._bucket_exists_cache):
                _drop_absent(known)
        resolved = super().resolve_path(path, revision=revision)
        if isinstance(resolved, HfFileSystemResolvedBucketPath):
            bucket = ("bucket", resolved.bucket_id)
            if self._freshness.is_due(bucket):
                self._freshness.note(bucket)
                self._forget_listings(resolved.root)
        elif not is_commit(resolved.revision):
            pin = pin_of(resolved.repo_type, resolved.repo_id, resolved.revision)
            if self._freshness.is_due(pin) and not self._look_again(resolved.root, pin):
                return super().resolve_path(path, revision=revision)  # raises what is to be raised
        return resolved

    def _repo_and_revision_exist(
        self, repo_type: str, repo_id: str, revision: str | None
    ) -> tuple[bool, Exception | None]:
        known = self._repo_and_revision_exists_cache

        def look() -> tuple[bool, Exception | None]:
            return super(PinnedFileSystem, self)._repo_and_revision_exist(repo_type, repo_id, revision)

        if (repo_type, repo_id, revision) in known:
            return _bounded(known, look)
        with self._folders.alone(f"{repo_type} {repo_id} {revision}", lambda: False):
            return _bounded(known, look)

    def _bucket_exists(self, bucket_id: str) -> tuple[bool, Exception | None]:
        return _bounded(
            self._bucket_exists_cache, lambda: super(PinnedFileSystem, self)._bucket_exists(bucket_id)
        )

    def _look_again(self, root: str, pin: Pin) -> bool:
        """Move to the commit that a revision is at now; return whether the revision still exists."""
        try:
            latest = self._api.latest_commit(pin)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            for known in [key for key in list(self._repo_and_revision_exists_cache) if key[:2] == pin[:2]]:
                self._repo_and_revision_exists_cache.pop(known, None)
            latest = None
        if latest is None or latest != self._api.commits.get(pin):
            self._api.commits.pop(
                pin, None
            )  # before its listings, which must not be read as those of the next
            self._forget_repository(root)
            if latest is not None:
                self._api.commits[pin] = latest
        return latest is not None

    def _forget_repository(self, root: str) -> None:
        """Forget a repository under all its names, such as ``org/name`` and ``org/name@main``."""
        repository = root.partition("@")[0]
        for listed in list(self.dircache):
            if listed == repository or listed.startswith((f"{repository}/", f"{repository}@")):
                self.dircache.pop(listed, None)
        self._index.clear()
        self._expansions.clear()

    def _forget_listings(self, root: str) -> None:
        """Forget the listings of a revision: those of two commits must not be mixed."""
        self._index.clear()
        self._expansions.clear()
        for listed in [each for each in list(self.dircache) if f"{each}/".startswith(f"{root}/")]:
            self.dircache.pop(listed, None)

    # ---- listings

    def _ls_tree(self, path: str, *args: Any, **kwargs: Any) -> Any:
        resolved = self.resolve_path(path, revision=kwargs.get("revision"))
        name = resolved.unresolve()
        plain = not (args or self.expand_info or any(kwargs.get(each) for each in _NOT_PLAIN))
        if name in self.dircache or not plain:
            return self._ls_at_one_commit(path, *args, **kwargs)
        # Who has gone on to the next commit does not wait for who lists this one.
        with self._folders.alone(
            f"{name} {self._commit_at(resolved)}", lambda: name in self.dircache
        ) as wanted:
            if wanted and isinstance(resolved, HfFileSystemResolvedRepositoryPath) and resolved.path:
                whole = self._folders.whole_of(resolved.root, name)
                if whole is not None:
                    self._list_whole(resolved, whole)
                if self._is_absent(name):
                    raise FileNotFoundError(name)
            return self._ls_at_one_commit(path, **kwargs)

    def _list_whole(self, resolved: HfFileSystemResolvedRepositoryPath, folder: str) -> None:
        """List all that is below a folder, if one answer holds it.

        An array of 16 folders of chunks takes one request so, and not one for each (bench_reads, zarr-all).
        """
        name, commit = resolved.unresolve(), self._commit_at(resolved)

        def is_known() -> bool:
            return name in self.dircache or self._is_absent(name)

        with self._folders.alone(f"{folder}/** {commit}", is_known) as wanted:
            if not wanted:
                return
            pages = self._api.tree_pages(
                resolved.repo_id, folder[len(resolved.root) + 1 :],
                recursive=True, revision=commit, repo_type=resolved.repo_type,
            )  # fmt: skip
            entries, is_all = next(pages, ([], True))
            if not is_all:
                self._folders.note_large(folder)
            elif commit == self._commit_at(resolved):  # else another thread went on to the next meanwhile
                self.dircache.update(group_by_folder(resolved.root, folder, entries))

    def _ls_at_one_commit(self, path: str, *args: Any, **kwargs: Any) -> Any:
        while True:
            resolved = self.resolve_path(path, revision=kwargs.get("revision"))
            before = self._commit_at(resolved)
            found = super()._ls_tree(path, *args, **kwargs)
            if self._commit_at(resolved) == before:
                self._roots.pop(resolved.root, None)
                self._roots[resolved.root] = None
                for oldest in list(self._roots)[:-_REVISIONS]:
                    self._roots.pop(oldest, None)
                    self._forget_listings(oldest)
                return found
            self._forget_listings(resolved.root)  # another thread went on to the next commit meanwhile

    def _commit_at(self, resolved: ResolvedPath) -> str | None:
        """Return the commit that a path is read at; ``None`` in a bucket."""
        if isinstance(resolved, HfFileSystemResolvedBucketPath):
            return None
        return self._api.pinned_commit(resolved.repo_type, resolved.repo_id, resolved.revision)

    def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield folders and files below a path, all of one version.

        See :class:`huggingface_hub.HfFileSystem`.
        """
        call = self._freshness.begin(refresh=bool(kwargs.get("refresh")))
        folders = super().walk(path, *args, **kwargs)
        while True:
            with self._freshness.within(call):  # what others do between two steps is not a part of it
                folder = next(folders, None)
            if folder is None:
                return
            yield folder

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Return what is below a path; see :class:`huggingface_hub.HfFileSystem`.

        Where folders are wanted, too, it asks what the path itself is. A folder that has just been listed is
        one, and is not looked for in the listing of the folder that it is in.
        """
        self._finding.now = True
        try:
            return super().find(path, *args, **kwargs)
        finally:
            self._finding.now = False

    def kind_of(self, name: str) -> str:
        """Return ``file`` or ``directory``; without a question where a folder has been listed itself."""
        return "directory" if self.dircache.get(name) else str(self.info(name)["type"])

    def info(
        self, path: str, refresh: bool = False, revision: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what is known of a file or folder; see :class:`huggingface_hub.HfFileSystem`.

        Answered from an index where the folder is listed already, however long the listing.
        """
        expand = kwargs.get("expand_info", self.expand_info)
        if not refresh and not expand:
            resolved = self.resolve_path(path, revision=revision)
            if resolved.path:
                name = resolved.unresolve()
                found = self._listed(name)
                if found is None and getattr(self._finding, "now", False) and self.dircache.get(name):
                    found = {
                        "name": name, "size": 0, "type": "directory", "tree_id": None, "last_commit": None,
                    }  # fmt: skip
                if found is not None:
                    return found
        known = self._expanded(path, revision) if expand and not refresh else None
        if known is not None:
            return known
        info: dict[str, Any]
        try:
            info = super().info(path, refresh=refresh, revision=revision, **kwargs)
        except HfHubHTTPError as error:
            if expand or not is_listing_unknown(error):
                raise
            # A server that has some of the files only knows of each what it is, but not which there are.
            alone = {**kwargs, "expand_info": True}
            info = super().info(path, refresh=refresh, revision=revision, **alone)
        if expand and info["type"] == "file":
            if len(self._expansions) >= _EXPANSIONS:
                self._expansions.clear()
            self._expansions[info["name"]] = (self._commit_of(info["name"]), info)
        return info

    def _expanded(self, path: str, revision: str | None) -> dict[str, Any] | None:
        """Return a file's last commit from an earlier answer: DuckDB asks three times in each query."""
        name = self.resolve_path(path, revision=revision).unresolve()
        commit, info = self._expansions.get(name, (None, None))
        return info if info is not None and commit == self._commit_of(name) else None

    def _commit_of(self, name: str) -> str | None:
        return self._commit_at(self.resolve_path(name))

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Return what :meth:`exists` returns: there are no links."""
        return self.exists(path, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether a file or folder exists; see :class:`huggingface_hub.HfFileSystem`."""
        try:
            self.info(path, **kwargs)
        except OSError:
            return False
        return True

    def ukey(self, path: str) -> str:
        """Return a key that changes with the file's content, and only then."""
        info = self.info(path)
        lfs = info.get("lfs")
        content = (lfs["sha256"] if lfs else None) or info.get("xet_hash") or info.get("blob_id")
        if content is None:
            return str(super().ukey(path))
        return hashlib.sha256(f"{info['name']} {content}".encode("utf-8", "surrogatepass")).hexdigest()

    def checksum(self, path: str) -> int:
        """Return :meth:`ukey` as a number."""
        return int(self.ukey(path), 16)

    def _listed(self, name: str) -> dict[str, Any] | None:
        """Return a file or folder from a cached listing."""
        parent = self._parent(name)
        entries = self._entries(parent)
        if entries is None:
            if self._is_absent(name):
                raise FileNotFoundError(name)
            return None
        found = entries.get(name)
        if found is None:
            raise FileNotFoundError(name)
        return found

    def _entries(self, folder: str) -> dict[str, dict[str, Any]] | None:
        """Return a cached listing by name, ``None`` if there is none."""
        listing = self.dircache.get(folder)
        if listing is None:
            return None
        known = self._index.get(folder)
        if known is None or known[0] is not listing or known[1] != len(listing):
            # huggingface_hub replaces listings; where it appends to one, its length tells.
            known = (listing, len(listing), {entry["name"]: entry for entry in listing})
            self._index[folder] = known
        return known[2]

    def _is_absent(self, name: str) -> bool:
        """Return whether cached listings say that there is no such file or folder."""
        inside = False
        while "/" in name:
            entries = self._entries(self._parent(name))
            if entries is not None:
                found = entries.get(name)
                return found is None or (inside and found["type"] != "directory")
            name, inside = self._parent(name), True
        return False

    def known_info(self, name: str) -> dict[str, Any] | None:
        """Return what a cached listing says of a file, without asking for one."""
        return (self._entries(self._parent(name)) or {}).get(name)

    def files_after(self, name: str) -> Iterator[str]:
        """Yield the files after one in the order of their names, as far as listings are cached."""
        return self._beside.after(self.dircache, name)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget cached listings, and the commit of each branch.

        Args:
            path: Forget those of this path's repository and revision only.
        """
        super().invalidate_cache(path)
        self._index.clear()
        self._expansions.clear()
        if path is None:
            self._api.commits.clear()
            return
        try:
            resolved = self.resolve_path(path)
        except (FileNotFoundError, NotImplementedError, ValueError):
            return
        self._forget_repository(resolved.root)
        if isinstance(resolved, HfFileSystemResolvedRepositoryPath):
            self._api.commits.pop(pin_of(resolved.repo_type, resolved.repo_id, resolved.revision), None)

    def _get_instance_state(self) -> dict[str, Any]:
        # What huggingface_hub pickles, and copies to the instances of other threads.
        return {**super()._get_instance_state(), "_commits": dict(self._api.commits)}

    @property
    def _commits(self) -> dict[tuple[str, str, str], str]:
        return dict(self._api.commits)

    @_commits.setter
    def _commits(self, commits: dict[tuple[str, str, str], str]) -> None:
        self._api.commits.update(commits)


def _bounded(
    known: dict[Any, tuple[bool, Exception | None]], look: Callable[[], tuple[bool, Exception | None]]
) -> tuple[bool, Exception | None]:
    """Return whether something exists, and else the error; cached, of very many only the latest.

    huggingface_hub keeps each one for ever, and with the errors all that their frames hold.
    """
    drop_oldest(known, _EXISTING)
    try:
        exists, error = look()
    except KeyError:  # dropped by another thread, between huggingface_hub's look for it and its use
        exists, error = look()
    if error is not None:
        detach_tracebacks(error)
    return exists, error


def _drop_absent(known: dict[Any, tuple[bool, Exception | None]]) -> None:
    """Forget paths that did not exist when they were asked for."""
    for absent in [key for key, (exists, _) in known.copy().items() if not exists]:
        known.pop(absent, None)
