"""The plan of a job: one repository at one commit, the files that were chosen, and the nodes they go to."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from huggingface_hub import constants

from hf_haul.config import MiB
from hf_haul.hub.asking import uncached_timeout
from hf_haul.hub.call_options import absolute_path, checked_repo_type
from hf_haul.hub.fallback import HubUnreachable, snapshot_error
from hf_haul.hub.file_listing import FileListing, is_partial, listed_file, pack
from hf_haul.hub.listing import page_problem
from hf_haul.hub.metadata import FileMetadata, ListedFile, metadata_from_listing
from hf_haul.hub.presets import Preset
from hf_haul.hub.repository import Repository
from hf_haul.hub.snapshot_files import SnapshotFiles
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.task import new_id
from hf_haul.waits import Waits, unattended

__all__ = ["PLAN_VERSION", "JobPlan", "default_stripe_bytes", "make_plan"]

#: Changes whenever nodes of the one version could not work with a plan of the other.
PLAN_VERSION: Final = 1
#: Bytes of the smallest and the largest stripe that is chosen, and how many each node is to have.
_SMALLEST: Final = MiB
_LARGEST: Final = 16 * MiB
_STRIPES_PER_NODE: Final = 16
#: Stripes of a plan at the most. Each node has bitmaps of them, of 2 MiB then, and knows that much of each
#: other one. A terabyte in the smallest stripes has a million, as have a million small files; 100 TB on
#: 10,000 nodes have six.
_MOST_STRIPES: Final = 1 << 24


@dataclass(frozen=True)
class JobPlan:
    """What a job consists of. It is data: nodes go on without whoever made it.

    Attributes:
        job_id: Unique id.
        endpoint: The Hub's URL.
        repo_type: ``model``, ``dataset``, ``space`` or ``kernel``.
        repo_id: ``org/name`` or ``name``.
        revision: What was asked for.
        commit: What that stood for.
        files: The listing of the commit, by path.
        selection: The files that were chosen, in the order of the listing.
        stripe_bytes: Bytes of a stripe; the last one of a blob may have fewer.
        nodes: Names of the nodes that the job began with, in order.
        complete: Whether ``files`` is the Hub's own listing, so that it may be cached.
    """

    job_id: str
    endpoint: str = field(repr=False)  # it may hold a password
    repo_type: str
    repo_id: str
    revision: str
    commit: str
    files: Mapping[str, ListedFile] = field(repr=False)
    selection: tuple[str, ...] = field(repr=False)
    stripe_bytes: int
    nodes: tuple[str, ...]
    complete: bool = True

    def __post_init__(self) -> None:
        if self.stripe_bytes < 1:
            raise ValueError(f"stripe_bytes must be greater than 0, not {self.stripe_bytes!r}")
        if not self.nodes or len(set(self.nodes)) != len(self.nodes):
            raise ValueError(f"a job needs nodes, each with a name of its own, not {self.nodes!r}")

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Yield etag and size of the distinct blobs that can be exchanged, in the order of the selection.

        A file whose digest the listing does not tell is not one of them: a node could not check what others
        send.
        """
        seen: set[str] = set()
        for path in self.selection:
            known = self.metadata(path)
            if known is not None and known.size and known.etag not in seen:
                seen.add(known.etag)
                yield known.etag, known.size

    def repeated(self) -> set[str]:
        """Return the etags of blobs that several of the chosen files have."""
        seen: set[str] = set()
        again: set[str] = set()
        for path in self.selection:
            known = self.metadata(path)
            if known is not None:
                (again if known.etag in seen else seen).add(known.etag)
        return again

    def metadata(self, path: str) -> FileMetadata | None:
        """Return a file's metadata; ``None`` if the listing lacks them."""
        return metadata_from_listing(self.commit, self.files[path])

    @property
    def total_bytes(self) -> int:
        """Bytes of the distinct blobs that can be exchanged."""
        return sum(size for _, size in self.blobs())

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for JSON; files as in the Hub's listings."""
        return {
            "version": PLAN_VERSION,
            "job_id": self.job_id,
            "endpoint": self.endpoint,
            "repo_type": self.repo_type,
            "repo_id": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            "files": [_entry(path, each) for path, each in self.files.items()],
            "selection": list(self.selection),
            "stripe_bytes": self.stripe_bytes,
            "nodes": list(self.nodes),
            "complete": self.complete,
        }

    @classmethod
    def from_json(cls, value: object) -> JobPlan:
        """Return the plan that :meth:`to_json` described.

        Raises:
            ValueError: It is none, or one of another version of hf-haul.
            UnsafePathError: The name of a file would lead out of its folder.
        """
        if not isinstance(value, dict) or value.get("version") != PLAN_VERSION:
            version = value.get("version") if isinstance(value, dict) else None
            raise ValueError(
                f"not a job's plan of version {PLAN_VERSION} but of {reprlib.repr(version)}: "
                "all nodes need the same version of hf-haul"
            )
        problem = _problem(value)
        if problem is not None:
            raise ValueError(f"not a job's plan: {problem}")
        files = FileListing()
        for each in value["files"]:
            file = listed_file(each)
            if file is not None:
                files.put(each["path"], pack(file))
        plan = cls(
            **{name: value[name] for name in _TEXTS},
            files=files,
            selection=tuple(value["selection"]),
            stripe_bytes=value["stripe_bytes"],
            nodes=tuple(value["nodes"]),
            complete=value["complete"],
        )
        unknown = next((path for path in plan.selection if path not in plan.files), None)
        if unknown is not None:
            raise ValueError(f"not a job's plan: {unknown!r} is chosen, but not listed")
        for path in (plan.commit, *plan.selection):
            require_safe_path(path)
        # That several files have one blob is looked for only then: with a million files it takes seconds.
        if _count_stripes(map(_size, value["files"]), plan.stripe_bytes) > _MOST_STRIPES:
            count = _count_stripes((size for _, size in plan.blobs()), plan.stripe_bytes)
            if count > _MOST_STRIPES:
                raise ValueError(
                    f"not a job's plan: {count:,} stripes of {plan.stripe_bytes:,} B, and {_MOST_STRIPES:,} are the most"
                )
        return plan


_TEXTS: Final = ("job_id", "endpoint", "repo_type", "repo_id", "revision", "commit")


def _problem(value: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a plan's plain values; ``None`` if nothing."""
    for name in _TEXTS:
        if not isinstance(value.get(name), str):
            return f"{name} is {reprlib.repr(value.get(name))}"
    for name in ("selection", "nodes"):
        each = value.get(name)
        if not isinstance(each, list) or not all(isinstance(text, str) for text in each):
            return f"{name} is {reprlib.repr(each)}"
    # A bool is an int to Python, but no size.
    if type(value.get("stripe_bytes")) is not int or not isinstance(value.get("complete"), bool):
        return "stripe_bytes or complete is missing"
    return page_problem(value.get("files"))


def _size(entry: Mapping[str, Any]) -> int:
    """Return the bytes of a file in a listing's page; none for a folder."""
    size: int = (entry.get("lfs") or entry)["size"] if entry["type"] == "file" else 0
    return size


def _count_stripes(sizes: Iterable[int], stripe_bytes: int) -> int:
    return sum(-(-size // stripe_bytes) for size in sizes)


def _entry(path: str, file: ListedFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
    if file.lfs_sha256 is not None:
        size = file.size if file.lfs_size is None else file.lfs_size
        entry["lfs"] = {"oid": file.lfs_sha256, "size": size}
    if file.xet_hash is not None:
        entry["xetHash"] = file.xet_hash
    return entry


def default_stripe_bytes(total_bytes: int, nodes: int) -> int:
    """Return how long stripes are to be: a power of two, for sixteen of them per node if that can be.

    Args:
        total_bytes: Of all blobs.
        nodes: How many nodes there are.
    """
    wanted = total_bytes // (_STRIPES_PER_NODE * nodes)
    return min(_LARGEST, max(_SMALLEST, 1 << max(0, wanted.bit_length() - 1)))


def make_plan(
    repo_id: str,
    *,
    nodes: Sequence[str],
    repo_type: str | None = None,
    revision: str | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    named: Sequence[str] = (),
    token: bool | str | None = None,
    endpoint: str | None = None,
    headers: dict[str, str] | None = None,
    stripe_bytes: int | None = None,
    job_id: str | None = None,
    waits: Waits = unattended,
) -> JobPlan:
    """Ask the Hub, once, which commit a revision is at and which files that has; return the plan of a job.

    Args:
        repo_id: ``org/name`` or ``name``.
        nodes: Names of the nodes, in order.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        presets: Rules that pick among formats, see :mod:`hf_haul.hub.presets`.
        named: Files, folders (with a slash at the end) and patterns that have to stand for a file each.
        token: A token, ``True`` for the stored one, ``False`` for none.
        endpoint: The Hub's URL.
        headers: Further headers for the Hub.
        stripe_bytes: Bytes of a stripe; by default as :func:`default_stripe_bytes` says.
        job_id: An id, where it is known already.
        waits: Where waits for the Hub are reported.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.EntryNotFoundError: A file that is ``named`` is not there.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached.
        UnsafePathError: A file's name would lead out of its folder.
    """
    repository = Repository(
        repo_id=repo_id,
        repo_type=checked_repo_type(repo_type),
        endpoint=endpoint,
        token=token,
        headers=headers,
        waits=waits,
    )
    wanted = SnapshotFiles(
        repository=repository,
        revision=revision or constants.DEFAULT_REVISION,
        cache_dir=absolute_path(constants.HF_HUB_CACHE),
        etag_timeout=uncached_timeout(),
        force_download=True,  # what a cache holds may be a mirror's
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        presets=(presets,) if isinstance(presets, str) else tuple(presets or ()),
        read_only=True,
        named=tuple(named),
    )
    try:
        commit, listing = wanted.ask(retry=True)
    except HubUnreachable as unreachable:
        verdict = snapshot_error(unreachable.error)
        if verdict is unreachable.error:
            raise verdict from None
        raise verdict from unreachable.error
    plan = JobPlan(
        job_id=job_id or new_id("job"),
        endpoint=repository.base,
        repo_type=repository.repo_type,
        repo_id=repo_id,
        revision=str(wanted.revision),
        commit=commit,
        files=FileListing.of(listing),
        selection=tuple(wanted.choose(listing)),
        stripe_bytes=stripe_bytes or _LARGEST,
        nodes=tuple(nodes),
        complete=not is_partial(listing),
    )
    if stripe_bytes is None:
        plan = replace(plan, stripe_bytes=default_stripe_bytes(plan.total_bytes, len(plan.nodes)))
    return plan
