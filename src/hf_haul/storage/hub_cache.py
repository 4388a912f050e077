"""Where verified files go: the Hub cache, a ``local_dir``, or any file on disk.

The layouts are huggingface_hub's own, so that it finds what we publish and we find what it published:
``models--org--name/{blobs,snapshots,refs,.no_exist}``, and ``local_dir/.cache/huggingface/download``.
A published name appears by rename, never by writing, and a symlink on the way is replaced, not followed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import logging
import ntpath
import os
import posixpath
import re
import reprlib
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from hf_haul.descriptors import descriptors
from hf_haul.errors import TooManyOpenFilesError, UnsafePathError
from hf_haul.storage.file_names import (
    STAGED_SUFFIX,
    cut_name,
    fit_key,
    name_length,
    name_limit,
    passing_name,
    temporary_name,
)
from hf_haul.storage.regular_files import is_node_mode, open_regular
from hf_haul.task import Digest

__all__ = [
    "MOST_FOLDERS",
    "BlobDestination",
    "FileDestination",
    "HandedOverDestination",
    "LocalDirDestination",
    "LocalFolder",
    "LocalMetadata",
    "RepoFolder",
    "digest_of",
    "extended_path",
    "is_among_notes",
    "is_lasting",
    "require_outside_notes",
    "require_place",
    "require_safe_commit",
    "require_safe_name",
    "require_safe_path",
]

logger = logging.getLogger(__name__)

_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n"
)
#: Windows' limits in characters for a file and for a folder that shall hold an 8.3 name.
_FILE_LIMIT: Final = 255
_FOLDER_LIMIT: Final = 247
#: What file systems accept for one name, less room for the suffixes of staged files.
_NAME_LIMIT: Final = 200
#: Folders that a file may be in, one in the other; making them goes as deep.
MOST_FOLDERS: Final = 255

#: Bytes copied in one step.
_COPY_STEP: Final = 1 << 20
#: Bytes of a version in a staging key: a dot and hex digits.
_VERSION: Final = 17
#: A name that every file system takes.
_SHORT_NAME: Final = 143

#: Commits named by their content: git's sha1, or a sha256 as some Hubs have it.
_LASTING: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

#: Paths that are safe at a glance, as nearly all are: no separators but single slashes, every name begins with a letter.
_PLAIN_PATH: Final = re.compile(r"\w[\w.+\- ]*(?:/\w[\w.+\- ]*)*")

#: The folders of a ``local_dir``'s notes, one in the other, by all the names that Windows has for them.
_NOTES_NAMES: Final = (r"\.cache|cache~\d+|ca[0-9a-f]{4}~\d+", r"huggingface|huggin~\d+|hu[0-9a-f]{4}~\d+")
#: Code points that macOS leaves out when it compares names.
_UNSEEN: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")

#: Makes ``blobs/<etag>`` point into a store shared by all repositories: (blob path, xet hash, size) -> done.
ShareBlob = Callable[[str, str, "int | None"], bool]


def require_safe_path(path: str) -> None:
    """Refuse a repository path that could lead out of the folder it is joined to.

    POSIX and Windows rules both apply on every system: what is written on one may be used on the other.

    Raises:
        UnsafePathError: ``path`` is empty, absolute, on a drive or a share, has a ``..`` segment, is no text, or is in more
            folders than can be made.
    """
    _require_few_folders(path, "filename")
    if _PLAIN_PATH.fullmatch(path):
        return
    if ".." in path.replace("\\", "/").split("/"):
        raise UnsafePathError(
            f"Invalid filename '{path}': cannot contain a '..' path segment. "
            "Please ask the repository owner to rename this file."
        )
    pure = [PurePosixPath(path), *(PureWindowsPath(part) for part in path.split("/"))]
    if any(part.drive or part.root for part in pure):
        raise UnsafePathError(
            f"Invalid filename '{path}': cannot be an absolute, drive-relative or UNC path. "
            "Please ask the repository owner to rename this file."
        )
    if posixpath.normpath(path) == "." or "\0" in path:
        raise UnsafePathError(f"Invalid filename {path!r}: it names no file.")
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise UnsafePathError(f"Invalid filename {path!r}: it is not Unicode text.")
    if os.name == "nt" and ":" in path:
        raise UnsafePathError(f"Invalid filename '{path}': Windows keeps ':' for data streams.")


def _require_few_folders(path: str, what: str) -> None:
    if path.count("/") > MOST_FOLDERS:
        raise UnsafePathError(
            f"Invalid {what} {reprlib.repr(path)}: it is in more than {MOST_FOLDERS} folders."
        )


def is_among_notes(path: str) -> bool:
    """Whether a repository path leads to where a ``local_dir`` keeps its notes: ``.cache/huggingface``.

    Names are compared as loosely as any system does: Windows and macOS do not tell upper from lower case, macOS neither
    the forms of one letter nor letters that cannot be seen, Windows drops dots and blanks at the end of a name, cuts it
    at a colon, and has short names of its own (``CACHE~1``).
    """
    if "cache" not in path.casefold() and path.isascii() and "~" not in path:
        return False
    names = [name for name in map(_folded, path.replace("\\", "/").split("/")) if name]
    return len(names) > 1 and all(map(re.fullmatch, _NOTES_NAMES, names))


def _folded(name: str) -> str:
    """A name as the least exact of all systems compares it."""
    seen = _UNSEEN.sub("", name.partition(":")[0])
    for _ in range(2):  # some letters fold to several
        seen = unicodedata.normalize("NFKC", seen).casefold()
    return seen.rstrip(" .")


def require_outside_notes(path: str) -> None:
    """Refuse a repository path that would be taken for a note of a ``local_dir``: notes say which files are verified.

    Raises:
        UnsafePathError: It would.
    """
    if is_among_notes(path):
        raise UnsafePathError(
            f"Invalid filename '{path}': a local_dir keeps its own notes in .cache/huggingface. "
            "Download it into the cache, without local_dir."
        )


def require_safe_name(name: str, *, what: str) -> str:
    """Refuse an etag or a commit that could not be the name of one file.

    Returns:
        ``name``.

    Raises:
        UnsafePathError: It is empty, too long, or holds a separator.
    """
    if not name or name_length(name) > _NAME_LIMIT or name in {".", ".."} or set(name) & set("/\\:\0"):
        raise UnsafePathError(f"the server announced {name!r} as {what}; it cannot name a file")
    return name


def require_safe_commit(commit: str) -> str:
    """Refuse a commit that could not be the name of a folder in ``snapshots``.

    Slashes are fine: some mirrors call a commit by the branch or tag that was asked for.

    Returns:
        ``commit``.

    Raises:
        UnsafePathError: It is empty, or would lead elsewhere.
    """
    _require_few_folders(commit, "commit")
    for part in commit.split("/"):
        require_safe_name(part, what=f"part of the commit {commit!r}")
    return commit


def is_lasting(commit: str) -> bool:
    """Whether a commit's name is made from its content, and so cannot come to mean something else."""
    return _LASTING.fullmatch(commit) is not None


def extended_path(path: str, limit: int = _FILE_LIMIT, *, windows: bool = os.name == "nt") -> str:
    r"""The path in Windows' ``\\?\`` form where it is longer than ``limit`` characters there."""
    if not windows:
        return path
    full = ntpath.abspath(path)
    if len(full) <= limit or full.startswith("\\\\?\\"):
        return path
    return "\\\\?\\UNC\\" + full[2:] if full.startswith("\\\\") else "\\\\?\\" + full


def digest_of(
    path: str | os.PathLike[str], algorithm: str, check: Callable[[], None] | None = None
) -> Digest:
    """Read a whole file and hash it.

    Args:
        path: The file.
        algorithm: ``sha256`` or ``git-sha1``.
        check: Called after each read; raises to end it.
    """
    size = os.stat(path).st_size
    if algorithm == "git-sha1":
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        kind: Digest = Digest("git-sha1", "0" * 40)
    else:
        digest = hashlib.sha256()
        kind = Digest("sha256", "0" * 64)
    buffer = memoryview(bytearray(1 << 20))
    with descriptors.patiently(lambda: open(path, "rb", buffering=0), check) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if check is not None:
                check()
    return Digest(kind.algorithm, digest.hexdigest())


class _Folders:
    """Folders made and file modes probed once, however many files go into them."""

    def __init__(self) -> None:
        # Both are filled without a lock: two threads that make the same folder do no harm.
        self._made: set[str] = set()
        self._modes: dict[str, int | None] = {}

    def make(self, folder: str) -> None:
        if folder not in self._made:
            os.makedirs(extended_path(folder, _FOLDER_LIMIT), exist_ok=True)
            self._made.add(folder)

    def forget(self, folder: str) -> None:
        self._made.discard(folder)

    def apply_mode(self, path: str, folder: str) -> None:
        """Give ``path`` the permissions that a file newly made in ``folder`` gets.

        The umask cannot be read without changing it for all threads, and a folder may add rules of its own.
        """
        if folder not in self._modes:
            self._modes[folder] = _probe_mode(folder)
        mode = self._modes[folder]
        if mode is not None:
            try:
                os.chmod(path, mode)
            except OSError as error:
                logger.warning("Could not set the permissions of '%s': %s", path, error)


def _probe_mode(folder: str) -> int | None:
    probe = passing_name(folder)
    try:
        fd = descriptors.patiently(lambda: os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError:
        return None
    try:
        if os.name != "nt":
            _discard(probe)  # at once: a kill in between leaves an empty file, which the next sweep removes
        return stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
        _discard(probe)


def _take_over_mode(path: Path, older: Path) -> bool:
    """Give a file the permissions, and if possible the owner, of the one it is about to replace; whether there is one."""
    try:
        found = os.stat(older)
        mine = os.stat(path)
    except OSError:
        return False
    try:
        if hasattr(os, "chown") and (found.st_uid, found.st_gid) != (mine.st_uid, mine.st_gid):
            with contextlib.suppress(PermissionError):  # only root may
                os.chown(path, found.st_uid, found.st_gid)
        os.chmod(path, stat.S_IMODE(found.st_mode) & 0o777)
    except OSError as error:
        logger.warning("Could not set the permissions of '%s': %s", path, error)
    return True


def _follow_link(path: Path) -> Path:
    """Where a file goes that is to be put at ``path``: to the target of a link, as all programs have it that write there.

    A link to a blob of a Hub's cache is not followed, because its bytes belong to its name: it is replaced itself.

    Raises:
        OSError: The links lead round in a circle.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    folder = target.parent
    is_blob = folder.name == "blobs" and (folder.parent / "snapshots").is_dir()
    return path if is_blob else target


def require_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can ever be put, before anything is fetched for it.

    Raises:
        IsADirectoryError: There is a folder, where somebody's files are; a link to one is no folder.
        FileExistsError: There is a device, a pipe or a socket; or a file is where a folder on the way should be.
        OSError: The file system takes no such name.
    """
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _is_a_folder(path)
        if is_node_mode(mode):
            raise FileExistsError(
                errno.EEXIST, "A device, a pipe or a socket is where the file should go", os.fspath(path)
            )
    except (FileNotFoundError, PermissionError):
        pass
    except NotADirectoryError as error:
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        raise FileExistsError(
            errno.EEXIST, "A file is where a folder should be", os.fspath(folder)
        ) from error


def _is_a_folder(path: str | os.PathLike[str]) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, "A folder is where the file should go", os.fspath(path))


def _replace(source: str, target: str) -> None:
    """Rename ``source`` to ``target``, over any file there, also across and on difficult file systems.

    Over a device or a pipe nothing is renamed, also if it was made there since the download began.
    """
    require_place(target)
    try:
        os.replace(source, target)
        return
    except OSError:
        if not os.path.lexists(source) or not os.path.isdir(os.path.dirname(target)):
            raise
    # Another device, or a mount that renames over nothing: bring the file near first, move the old one aside.
    near = temporary_name(target, ".new", ".")
    aside = temporary_name(target, ".old", ".")
    try:
        try:
            os.rename(source, near)
        except OSError:
            _copy_to_new(source, near)
            shutil.copymode(source, near)
        _swap_in(near, target, aside)
    except OSError:
        if os.path.lexists(source):
            _discard(near)
        else:
            os.rename(near, source)
        raise
    _discard(source)


def _swap_in(near: str, target: str, aside: str) -> None:
    occupied = os.path.lexists(target)
    if occupied:
        os.rename(target, aside)
    try:
        os.rename(near, target)
    except OSError:
        if occupied:
            os.rename(aside, target)
        raise
    if occupied:
        _discard(aside)


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _copy_to_new(source: str, target: str) -> None:
    """Copy a file to a name that is not taken, not even by a link."""
    with (
        descriptors.patiently(lambda: open(source, "rb")) as old,
        descriptors.patiently(lambda: open(target, "xb"), own=1) as new,
    ):
        shutil.copyfileobj(old, new, _COPY_STEP)


def _write_atomically(path: str, text: str, through: str) -> None:
    """Write a small file by rename.

    Args:
        path: The file.
        text: What is to be in it.
        through: The folder where it is written first: one of staged files, which is swept.
    """
    temporary = passing_name(through)
    try:
        with descriptors.patiently(lambda: open(temporary, "x", encoding="utf-8")) as file:
            file.write(text)
        _replace(temporary, path)
    except OSError:
        _discard(temporary)
        raise


def _tag_folder(folder: str) -> None:
    """Mark a folder as a cache, so that backups pass it over. An existing mark is left alone."""
    with contextlib.suppress(OSError), open(os.path.join(folder, "CACHEDIR.TAG"), "x") as file:
        file.write(_TAG)


class RepoFolder:
    """One repository's folder in a Hub cache.

    Args:
        cache_dir: The cache: the folder that holds one folder per repository.
        name: The repository's folder in it, such as ``models--org--name``.
        symlinks: Whether the cache's file system has symlinks; without, files go straight into snapshots.
        share: Links a blob from a store that several repositories share, where there is one.
    """

    def __init__(
        self,
        cache_dir: str,
        name: str,
        *,
        symlinks: Callable[[], bool] = lambda: True,
        share: ShareBlob | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self.root = os.path.join(cache_dir, name)
        self.blobs = os.path.join(self.root, "blobs")
        self.share = share
        self._symlinks = symlinks
        self._symlinks_known: bool | None = None
        self._folders = _Folders()

    @property
    def symlinks(self) -> bool:
        """Whether symlinks work here; asked once, because the answer costs a probe on disk."""
        if self._symlinks_known is None:
            self._symlinks_known = self._symlinks()
        return self._symlinks_known

    def prepare(self) -> None:
        """Make the folders that any download needs, and mark the cache as one.

        Raises:
            OSError: The cache cannot be written.
        """
        self._folders.make(self.blobs)
        _tag_folder(self.cache_dir)

    def snapshot(self, commit: str) -> str:
        """The folder of one commit's files."""
        return os.path.join(self.root, "snapshots", *require_safe_commit(commit).split("/"))

    def pointer(self, commit: str, path: str) -> str:
        """The path a user finds the file at: a link to its blob.

        Raises:
            UnsafePathError: ``path`` would leave the snapshot.
        """
        require_safe_path(path)
        return os.path.join(self.snapshot(commit), *path.split("/"))

    def blob(self, etag: str) -> str:
        """The file that holds the bytes."""
        return os.path.join(self.blobs, require_safe_name(etag, what="etag"))

    def read_ref(self, revision: str) -> str | None:
        """The commit that a branch or tag was last seen at, or ``None``."""
        try:
            with descriptors.patiently(lambda: open(self._ref(revision), encoding="utf-8")) as file:
                return file.read()
        except OSError:
            return None

    def write_ref(self, revision: str, commit: str) -> None:
        """Note the commit of a branch or tag, unless noted already; readers never see half of it.

        A branch that a mirror calls by its own name is noted too: offline, nothing else leads to its files.

        Raises:
            OSError: It cannot be written.
        """
        if (revision == commit and is_lasting(commit)) or self.read_ref(revision) == commit:
            return
        path = self._ref(revision)
        os.makedirs(extended_path(os.path.dirname(path), _FOLDER_LIMIT), exist_ok=True)
        _write_atomically(path, commit, self.blobs if os.path.isdir(self.blobs) else os.path.dirname(path))

    def _ref(self, revision: str) -> str:
        require_safe_path(revision)
        return os.path.join(self.root, "refs", *revision.split("/"))

    def remember_missing(self, commit: str, path: str) -> None:
        """Note that the repository has no such file at this commit; a failure to do so is only logged.

        Nothing is noted of a commit that may have the file tomorrow.
        """
        require_safe_path(path)
        marker = os.path.join(self.root, ".no_exist", require_safe_commit(commit), *path.split("/"))
        if not is_lasting(commit):
            return
        try:
            os.makedirs(extended_path(os.path.dirname(marker), _FOLDER_LIMIT), exist_ok=True)
            os.close(open_regular(marker, os.O_WRONLY | os.O_CREAT))
        except OSError as error:
            logger.warning("Could not note that '%s' does not exist: %s", path, error)

    def publish(self, staged: str, blob: str, pointer: str, *, over: bool = False) -> None:
        """Move a verified file to its blob and link it; see `link` for ``over``.

        Raises:
            OSError: It could not be moved.
        """
        self._folders.make(self.blobs)
        self._folders.apply_mode(staged, os.path.dirname(staged))
        if self.symlinks:
            _replace(staged, extended_path(blob))
            self.link(blob, pointer, over=over)
        else:
            self._folders.make(os.path.dirname(pointer))
            _replace(staged, extended_path(pointer))

    def link(self, blob: str, pointer: str, *, over: bool = False) -> None:
        """Make ``pointer`` lead to an existing ``blob``; copy where symlinks do not work.

        Args:
            blob: The bytes.
            pointer: Where users look for them.
            over: Whether a pointer that is there already is replaced; it is left alone otherwise.

        Raises:
            FileExistsError: Something else took the pointer's place meanwhile.
        """
        exists = os.path.exists(pointer)
        if exists and not over:
            return
        folder = os.path.dirname(pointer)
        self._folders.make(folder)
        if self.symlinks:
            try:
                if exists:
                    self._relink(blob, pointer, folder)
                    return
                _symlink(blob, pointer, folder)
                return
            except FileNotFoundError:
                # Somebody removed the folder since we made it.
                self._folders.forget(folder)
                self._folders.make(folder)
                _symlink(blob, pointer, folder)
                return
            except PermissionError:
                logger.debug("No permission for symlinks in %s: copying", folder)
        temporary = passing_name(self.blobs)
        try:
            _copy_to_new(blob, temporary)
            _replace(temporary, extended_path(pointer))
        finally:
            _discard(temporary)

    def _relink(self, blob: str, pointer: str, folder: str) -> None:
        """Replace a pointer by rename: who reads it meanwhile gets the old bytes or the new ones."""
        temporary = passing_name(self.blobs)
        try:
            os.symlink(os.path.relpath(blob, folder), temporary)
            _replace(temporary, extended_path(pointer))
        finally:
            _discard(temporary)


def _symlink(blob: str, pointer: str, folder: str) -> None:
    target = os.path.relpath(blob, folder)
    try:
        os.symlink(target, pointer)
    except FileExistsError:
        if not os.path.islink(pointer):
            raise
        if os.path.realpath(pointer) != os.path.realpath(blob):
            # A link to nowhere, or to a blob of another store: only the caller's blob is known to be right.
            os.unlink(pointer)
            os.symlink(target, pointer)


def _others(keys: tuple[str, ...], current: str) -> tuple[str, ...]:
    return tuple(key for key in keys if key != current)


@dataclass(frozen=True, slots=True)
class BlobDestination:
    """One file of a snapshot in a Hub cache.

    Attributes:
        folder: The repository's folder.
        commit: The snapshot's commit.
        name: The file's path in the repository.
        etag: Name of its blob.
        size: Bytes, where known.
        xet_hash: The file's Xet hash, where it has one: the key of the shared store.
    """

    folder: RepoFolder
    commit: str
    name: str
    etag: str
    size: int | None = None
    xet_hash: str | None = None
    _blob: str = field(init=False, repr=False)
    _pointer: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_blob", self.folder.blob(self.etag))
        object.__setattr__(self, "_pointer", self.folder.pointer(self.commit, self.name))

    @property
    def path(self) -> Path:
        """The pointer in the snapshot."""
        return Path(self._pointer)

    @property
    def staging_dir(self) -> Path:
        """The repository's blobs, where ``hf cache prune`` looks for leftovers."""
        return Path(self.folder.blobs)

    @property
    def staging_key(self) -> str:
        """The etag."""
        return fit_key(self.etag, self.folder.blobs)

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The etag, where it is too long for a key."""
        return _others((self.etag,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Never: another version has another blob."""
        del key
        return False

    @property
    def upstream_lock(self) -> Path:
        """One per blob, beside all repositories."""
        folder = self.folder
        return Path(folder.cache_dir, ".locks", os.path.basename(folder.root), f"{self.etag}.lock")

    def is_linked(self, check: Callable[[], None] | None = None) -> bool:
        """Whether the pointer leads to a file of the right size; changes nothing.

        A commit that is only the name of a branch may have moved on since: then it has to be this very blob.
        """
        return self._fits(self._pointer) and (is_lasting(self.commit) or self._is_ours(check))

    def has_blob(self) -> bool:
        """Whether the bytes are there, linked or not, as far as their size tells."""
        return self._fits(self._blob)

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Whether the pointer leads to the file; links a blob that is there already.

        One of another size than was announced is hashed: a disk, or a program, may have cut it, and a server may have
        been wrong.
        """
        if self.is_linked(check):
            return True
        if os.path.exists(self._blob):
            there = self.has_blob() or self._hashes_right(self._blob, check)
        else:
            there = self._shared()
        if there:
            self.folder.link(self._blob, self._pointer, over=self._replaces)
        return there

    def publish(self, staged: Path) -> None:
        """Move the staged file to its blob and link it."""
        self.folder.publish(os.fspath(staged), self._blob, self._pointer, over=self._replaces)

    @property
    def _replaces(self) -> bool:
        """Whether a pointer that is there may lead to other bytes."""
        return not (is_lasting(self.commit) and self._fits(self._pointer))

    def _fits(self, path: str) -> bool:
        """Whether there is a file of the right size, or of any where that is not known."""
        try:
            size = os.stat(path).st_size
        except OSError:
            return False
        return self.size is None or size == self.size

    def _hashes_right(self, path: str, check: Callable[[], None] | None) -> bool:
        algorithm = {40: "git-sha1", 64: "sha256"}.get(len(self.etag))
        return algorithm is not None and digest_of(path, algorithm, check).value == self.etag

    def _is_ours(self, check: Callable[[], None] | None) -> bool:
        if os.path.islink(self._pointer):
            return os.path.realpath(self._pointer) == os.path.realpath(self._blob)
        return self._hashes_right(self._pointer, check)  # a cache without symlinks: only the bytes can tell

    def _shared(self) -> bool:
        share = self.folder.share
        if share is None or self.xet_hash is None:
            return False
        os.makedirs(self.folder.blobs, exist_ok=True)
        return share(self._blob, self.xet_hash, self.size)


@dataclass(frozen=True, slots=True)
class LocalMetadata:
    """What is noted about a file in a ``local_dir``.

    Attributes:
        commit: The commit it was downloaded at.
        etag: The version of its content.
        timestamp: When that was true, in seconds since the epoch.
    """

    commit: str
    etag: str
    timestamp: float


class LocalFolder:
    """A ``local_dir``: plain files, and notes about them below ``.cache/huggingface``."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._notes = os.path.join(root, ".cache", "huggingface")
        self._folders = _Folders()
        self._prepared = False  # set without a lock: two threads that prepare it at once do no harm

    def prepare(self) -> None:
        """Make the folder for notes, mark it as a cache and hide it from git. Once."""
        if self._prepared:
            return
        self._folders.make(os.path.join(self._notes, "download"))
        _tag_folder(self._notes)
        with contextlib.suppress(OSError), open(os.path.join(self._notes, ".gitignore"), "x") as f:
            f.write("*")
        self._prepared = True

    def file(self, name: str) -> str:
        """The file itself.

        Raises:
            UnsafePathError: ``name`` would leave the folder, or lies among its notes.
        """
        require_safe_path(name)
        require_outside_notes(name)
        return extended_path(os.path.join(self.root, *name.split("/")), _FOLDER_LIMIT)

    def notes(self, name: str) -> str:
        """The file that holds the metadata of ``name``."""
        require_safe_path(name)
        require_outside_notes(name)
        path = os.path.join(self._notes, "download", *name.split("/"))
        return extended_path(f"{path}.metadata", _FOLDER_LIMIT)

    def read_metadata(self, name: str) -> LocalMetadata | None:
        """What is noted about a file, if it still holds.

        Returns:
            ``None`` where nothing is noted, the note is damaged (it is then removed), or the file is gone or
            was changed more than a second after the note was written.
        """
        path = self.notes(name)
        try:
            with open(open_regular(path, os.O_RDONLY), encoding="utf-8") as file:
                commit, etag, timestamp = (file.readline().strip() for _ in range(3))
            metadata = LocalMetadata(commit, etag, float(timestamp))
        except (FileNotFoundError, TooManyOpenFilesError):
            return None
        except (OSError, ValueError) as error:
            logger.warning("Invalid metadata file %s: %s. Removing it from disk and continue.", path, error)
            _discard(path)
            return None
        try:
            changed = os.stat(self.file(name)).st_mtime
        except OSError:
            return None
        return metadata if changed - 1 <= metadata.timestamp else None

    def write_metadata(self, name: str, commit: str, etag: str) -> None:
        """Note that ``name`` is what ``commit`` has under ``etag``, as of now; a failure to do so is only a warning."""
        path = self.notes(name)
        try:
            self.prepare()
            text = f"{commit}\n{etag}\n{time.time()}\n"
            self._in_folder(path, lambda: _write_atomically(path, text, os.path.dirname(path)))
        except OSError as error:
            logger.warning(
                "%s is in place, but it could not be noted that it is up to date, so it may be fetched again: %s",
                name,
                error,
            )

    def publish(self, staged: str, name: str) -> None:
        """Move a verified file into place.

        Raises:
            OSError: It could not be moved.
        """
        path = self.file(name)
        self._folders.apply_mode(staged, os.path.dirname(staged))
        self._in_folder(path, lambda: _replace(staged, path))

    def copy_in(self, source: str, name: str) -> None:
        """Put a copy of another file into place, by rename.

        Raises:
            OSError: It could not be copied.
        """
        self.prepare()
        temporary = passing_name(os.path.join(self._notes, "download"))
        try:
            _copy_to_new(source, temporary)
            self.publish(temporary, name)
        finally:
            _discard(temporary)

    def _in_folder(self, path: str, action: Callable[[], None]) -> None:
        folder = os.path.dirname(path)
        self._folders.make(folder)
        try:
            action()
        except FileNotFoundError:
            # Made in this session and removed by somebody since.
            self._folders.forget(folder)
            self._folders.make(folder)
            action()


@dataclass(frozen=True, slots=True)
class LocalDirDestination:
    """One file of a ``local_dir``.

    Attributes:
        folder: The ``local_dir``.
        name: The file's path in the repository.
        commit: The commit it is downloaded at.
        etag: The version of its content.
    """

    folder: LocalFolder
    name: str
    commit: str
    etag: str
    _path: str = field(init=False, repr=False)
    _notes: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_safe_name(self.etag, what="etag")
        object.__setattr__(self, "_path", self.folder.file(self.name))
        object.__setattr__(self, "_notes", self.folder.notes(self.name))

    @property
    def path(self) -> Path:
        """The file in the ``local_dir``."""
        return Path(self._path)

    @property
    def staging_dir(self) -> Path:
        """Next to the file's metadata, where huggingface_hub stages too."""
        return Path(os.path.dirname(self._notes))

    @property
    def staging_key(self) -> str:
        """A hash of the file's name, and its etag."""
        return fit_key(self._key_of_upstream, os.path.dirname(self._notes))

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The same with all of the etag, where that is too long."""
        return _others((self._key_of_upstream,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Whether the key begins with the same hash."""
        return key.startswith(f"{self._short_name}.")

    @property
    def upstream_lock(self) -> Path:
        """One per file, beside its notes."""
        return Path(self._notes).with_suffix(".lock")

    @property
    def _key_of_upstream(self) -> str:
        return f"{self._short_name}.{self.etag}"

    @property
    def _short_name(self) -> str:
        name = os.path.basename(self._notes).encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(hashlib.sha1(name, usedforsecurity=False).digest()).decode()

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Whether the file is there with this etag; its metadata then say so of this commit too."""
        del check  # nothing here takes long
        metadata = self.folder.read_metadata(self.name)
        if metadata is None or metadata.etag != self.etag:
            return False
        if metadata.commit != self.commit:
            self.folder.write_metadata(self.name, self.commit, self.etag)
        return True

    def publish(self, staged: Path) -> None:
        """Move the staged file into place and write its metadata."""
        self.folder.publish(os.fspath(staged), self.name)
        self.folder.write_metadata(self.name, self.commit, self.etag)


@dataclass(frozen=True, slots=True)
class FileDestination:
    """Any file on disk, staged next to its final place.

    As ``cp`` would, it follows a link to its target, and a file that is replaced keeps its permissions.

    Attributes:
        file: The final place.
        version: What tells this content from another one for the same place: a URL, an etag.
        digest: What a file in place must hash to, to count as present.
        size: What it must measure in bytes, where no digest is known.
        former_versions: What earlier versions of hf-haul called this content.
    """

    file: Path
    version: str = field(default="", repr=False)  # it may be a URL, and signed
    digest: Digest | None = None
    size: int | None = None
    former_versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", _follow_link(self.file))

    @property
    def path(self) -> Path:
        """The final place."""
        return self.file

    @property
    def staging_dir(self) -> Path:
        """The folder of the final place."""
        return self.file.parent

    @property
    def staging_key(self) -> str:
        """The file's name and a hash of its version."""
        return f"{self._kept_name}.{self._hashed(self.version)}"

    @property
    def former_keys(self) -> tuple[str, ...]:
        """Those with more of the name than fits, and those of former versions: of a URL with its signature."""
        names = dict.fromkeys((self._kept_name, self.file.name[: _NAME_LIMIT - 60]))
        versions = (self.version, *self.former_versions)
        keys = tuple(f"{name}.{self._hashed(version)}" for name in names for version in versions)
        return _others(keys, self.staging_key)

    def replaces(self, key: str) -> bool:
        """Whether the key is of the same name, if that is all of it, and of any version."""
        name, _, version = key.rpartition(".")
        return name == self.file.name == self._kept_name and re.fullmatch("[0-9a-f]{16}", version) is not None

    @property
    def upstream_lock(self) -> None:
        """None: huggingface_hub knows nothing of it."""
        return

    def _hashed(self, version: str) -> str:
        content = f"{self.file.name}\0{version}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()[: _VERSION - 1]

    @property
    def _kept_name(self) -> str:
        """As much of the file's name as is part of its key."""
        name = self.file.name[: _NAME_LIMIT - 60]
        if name_length(name) + _VERSION + STAGED_SUFFIX <= _SHORT_NAME:
            return name
        return cut_name(name, name_limit(os.fspath(self.file.parent)) - _VERSION - STAGED_SUFFIX)

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Whether the file is there with the right digest, or else the right size; ``False`` if neither is known."""
        try:
            size = os.stat(self.file).st_size
        except OSError:
            return False
        if self.size is not None and size != self.size:
            return False
        if self.digest is not None:
            return digest_of(self.file, self.digest.algorithm, check) == self.digest
        return self.size is not None

    def publish(self, staged: Path) -> None:
        """Move the staged file into place, with the permissions of the file it replaces, or of a new one."""
        if not _take_over_mode(staged, self.file):
            _Folders().apply_mode(os.fspath(staged), os.fspath(staged.parent))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _replace(os.fspath(staged), extended_path(os.fspath(self.file)))


@dataclass(frozen=True, slots=True)
class HandedOverDestination:
    """A file that somebody else links and notes: only its bytes are ours to bring.

    Attributes:
        file: The final place.
        staged: Where it would be staged by its owner, as ``<key>.incomplete``.
    """

    file: Path
    staged: Path

    @property
    def path(self) -> Path:
        """The final place."""
        return self.file

    @property
    def staging_dir(self) -> Path:
        """The owner's folder for staged files."""
        return self.staged.parent

    @property
    def staging_key(self) -> str:
        """The owner's name for the staged file; for huggingface_hub the same as ours for the same file."""
        return fit_key(self._key_of_upstream, self.staged.parent)

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The owner's name, where it is too long for a key."""
        return _others((self._key_of_upstream,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Never: what is staged beside it is the owner's business."""
        del key
        return False

    @property
    def upstream_lock(self) -> None:
        """None: the owner holds it."""
        return

    @property
    def _key_of_upstream(self) -> str:
        return self.staged.name.removesuffix(".incomplete")

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Whether there is a file."""
        del check  # nothing here takes long
        return self.file.exists()

    def publish(self, staged: Path) -> None:
        """Move the staged file into place, with the permissions of a new file."""
        _Folders().apply_mode(os.fspath(staged), os.fspath(staged.parent))
        _replace(os.fspath(staged), os.fspath(self.file))
