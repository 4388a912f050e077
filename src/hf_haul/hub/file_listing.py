"""The files of a commit by path, in little memory: there may be a million of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping
from struct import Struct
from typing import Any, Final, TypeAlias

from hf_haul.errors import UnsafePathError
from hf_haul.hub.listing import is_encodable
from hf_haul.hub.metadata import LARGEST, ListedFile, credible_size
from hf_haul.storage.safe_paths import MOST_FOLDERS, require_safe_path

__all__ = ["FileListing", "PackedFile", "is_partial", "kept_file", "listed_file", "pack", "require_credible"]

#: A file as it is kept: its numbers and ids as bytes, which take a third of the memory; as it is where they
#: do not fit.
PackedFile: TypeAlias = bytes | ListedFile

_PLAIN: Final = Struct("<q20s")  # size, git's object id
_LFS: Final = Struct("<q20sq32s")  # the same of the pointer, size, sha256
_XET: Final = Struct("<q20sq32s32s")  # the same, Xet hash
#: ``partial`` where ``hf-haul serve`` does not have the Hub's own listing.
_LISTING_HEADER: Final = "X-Haul-Listing"


def listed_file(item: Mapping[str, Any]) -> ListedFile | None:
    """Return a file of a listing's page; ``None`` for a folder."""
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


def kept_file(
    size: Any, blob_id: Any, lfs_sha256: Any = None, lfs_size: Any = None, xet_hash: Any = None
) -> ListedFile:
    """Return a file of a listing on disk, where huggingface_hub keeps whatever a server said.

    Raises:
        ValueError: No page with such a file would be taken from a Hub.
    """
    sizes = (size,) if lfs_sha256 is None else (size, lfs_size)
    if not (
        all(type(each) is int and 0 <= each <= LARGEST for each in sizes)  # to Python, a bool is an int
        and isinstance(blob_id, str)
        and isinstance(lfs_sha256, str | None)
        and isinstance(xet_hash, str | None)
    ):
        raise ValueError(f"a file of {(size, blob_id, lfs_sha256, lfs_size, xet_hash)!r}")
    return ListedFile(size, blob_id, lfs_sha256, None if lfs_sha256 is None else lfs_size, xet_hash)


def require_credible(paths: Iterable[str]) -> None:
    """Raise if a path on disk is none that would be taken from a Hub.

    Raises:
        ValueError: It is no text, or in too many folders.
    """
    for path in paths:
        if path.count("/") > MOST_FOLDERS or not (path.isascii() or is_encodable(path)):
            raise ValueError(f"a path of {path[:200]!r}")


def pack(file: ListedFile) -> PackedFile:
    """Return a file as it is kept."""
    blob, size = _raw(file.blob_id, 20), file.size
    if blob is None or not 0 <= size <= LARGEST:
        return file
    if file.lfs_sha256 is None:
        return _PLAIN.pack(size, blob) if file.lfs_size is None and file.xet_hash is None else file
    sha256 = _raw(file.lfs_sha256, 32)
    if sha256 is None or file.lfs_size is None or not 0 <= file.lfs_size <= LARGEST:
        return file
    if file.xet_hash is None:
        return _LFS.pack(size, blob, file.lfs_size, sha256)
    xet_hash = _raw(file.xet_hash, 32)
    return file if xet_hash is None else _XET.pack(size, blob, file.lfs_size, sha256, xet_hash)


def _raw(text: str, length: int) -> bytes | None:
    """Return the bytes that lower-case hex digits stand for; ``None`` if they are none, or too many."""
    if len(text) != 2 * length:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw if raw.hex() == text else None


def _fields(packed: PackedFile) -> tuple[int, str, str | None, int | None, str | None]:
    """Return what a :class:`~hf_haul.hub.metadata.ListedFile` has, in its order."""
    if isinstance(packed, ListedFile):
        return packed.size, packed.blob_id, packed.lfs_sha256, packed.lfs_size, packed.xet_hash
    if len(packed) == _PLAIN.size:
        size, blob = _PLAIN.unpack(packed)
        return size, blob.hex(), None, None, None
    if len(packed) == _LFS.size:
        size, blob, lfs_size, sha256 = _LFS.unpack(packed)
        return size, blob.hex(), sha256.hex(), lfs_size, None
    size, blob, lfs_size, sha256, xet_hash = _XET.unpack(packed)
    return size, blob.hex(), sha256.hex(), lfs_size, xet_hash.hex()


class FileListing(Mapping[str, ListedFile]):
    """The files of a commit by path: read-only but for :meth:`put`.

    A file takes some sixty bytes beside its name, and its :class:`~hf_haul.hub.metadata.ListedFile` is made
    each time it is asked for.

    Args:
        files: The files.

    Attributes:
        partial: Whether the server said that this is not the Hub's own listing, as ``hf-haul serve`` does
            where it was told which files there are.
    """

    def __init__(self, files: Mapping[str, ListedFile] | None = None) -> None:
        self.partial = False
        self._files: dict[str, PackedFile] = {}
        self._is_safe: bool | None = None  # once somebody has asked
        for path, file in ({} if files is None else files).items():
            self.put(path, pack(file))

    @classmethod
    def of(cls, files: Mapping[str, ListedFile]) -> FileListing:
        """Return the same files as a listing."""
        return files if isinstance(files, FileListing) else cls(files)

    @classmethod
    def of_packed(cls, files: dict[str, PackedFile]) -> FileListing:
        """Return a listing of files that are packed already, and take the dict over.

        Raises:
            TypeError: Something in it is no packed file.
        """
        if not all(isinstance(packed, PackedFile) for packed in files.values()):
            raise TypeError("not all of it are files")
        found = cls()
        found._files = files
        return found

    def put(self, path: str, packed: PackedFile) -> None:
        """Add a file, or replace what is known of it."""
        self._files[path] = packed
        self._is_safe = None

    def note_headers(self, response: Any) -> None:
        """Note whether an answer says that the listing is partial."""
        if str(response.headers.get(_LISTING_HEADER, "")).strip().lower() == "partial":
            self.partial = True

    def __getitem__(self, path: str) -> ListedFile:
        packed = self._files[path]
        return packed if isinstance(packed, ListedFile) else ListedFile(*_fields(packed))

    def __contains__(self, path: object) -> bool:
        return path in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def keys(self) -> KeysView[str]:
        """Return the paths."""
        return self._files.keys()

    def only(self, paths: Iterable[str]) -> FileListing:
        """Return a listing with only these of its files, in this order."""
        found = FileListing()
        found.partial = self.partial
        found._files = {path: self._files[path] for path in paths}
        return found

    def without_digest(self) -> list[str]:
        """Return the files that the listing tells no digest of."""
        return [
            path
            for path, packed in self._files.items()
            if isinstance(packed, ListedFile) and packed.digest is None
        ]

    def has_redacted(self) -> bool:
        """Return whether the Xet hash of some file is none, as where the Hub redacts them."""
        return any(
            isinstance(packed, ListedFile) and packed.xet_hash is not None and packed.valid_xet_hash is None
            for packed in self._files.values()
        )

    def fields(self, path: str) -> tuple[int, str, str | None, int | None, str | None]:
        """Return what :class:`~hf_haul.hub.metadata.ListedFile` has of a file, in its order; costs less."""
        return _fields(self._files[path])

    def content_sizes(self, paths: Iterable[str]) -> Iterator[tuple[str, int | None]]:
        """Yield files with the bytes of their content; ``None`` where what is told cannot be true."""
        files, plain = self._files, _PLAIN.size
        for path in paths:
            packed = files[path]
            if isinstance(packed, bytes):  # the usual case needs no object
                size = int.from_bytes(packed[:8] if len(packed) == plain else packed[28:36], "little")
                if size:
                    yield path, size
                    continue
            file = self[path]
            digest = file.digest
            yield path, credible_size(file.bytes, file.blob_id if digest is None else digest.value)

    @property
    def is_safe(self) -> bool:
        """Whether no path leads out of its folder."""
        if self._is_safe is None:
            self._is_safe = _all_safe(self._files)
        return self._is_safe


def _all_safe(paths: Iterable[str]) -> bool:
    try:
        for path in paths:
            require_safe_path(path)
    except UnsafePathError:
        return False
    return True


def is_partial(listing: Mapping[str, ListedFile]) -> bool:
    """Return whether the server said that a listing is not the Hub's own.

    Use it for one call, do not cache it.
    """
    return isinstance(listing, FileListing) and listing.partial
