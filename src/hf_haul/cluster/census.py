"""Which workers of a cluster become nodes: one of each host and cache, or every one; pure but for ``probe``.

A *worker* is what a scheduler knows: it has a name, which it keeps when it is started again, and an address,
which it does not. A *node* is what gets the files: a folder on a host. Whichever worker serves a node, when
one is gone another one that reaches the same folder takes its place.
"""

from __future__ import annotations

import hashlib
import re
import socket
import uuid
from collections.abc import Hashable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import constants

from hf_haul import __version__
from hf_haul.cluster.results import NodeError
from hf_haul.failures import FailureKind, describe
from hf_haul.hub.call_options import absolute_path

__all__ = ["Census", "Facts", "Per", "Question", "SameFolderError", "Worker", "fill_in", "probe"]

#: What is a node: a host with a cache, or a worker.
Per = Literal["host", "worker"]
#: Where a folder's name has the name of the node.
_NODE: Final = "{node}"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: What Python says of a module that is not there, and of a name that a module does not have.
_ABSENT: Final = re.compile(r"No module named '(hf_haul[\w.]*)'")
_OTHER_VERSION: Final = re.compile(r"\b(Attribute|Import)Error\b.*\bhf_haul\b")
#: Characters of a node's name, which may be a part of a folder's only; systems take 255 for the whole.
_LONGEST_NAME: Final = 100
_UNFIT_FOR_NAMES: Final = re.compile(r"[^\w.\-]+", re.ASCII)


class SameFolderError(NodeError, ValueError):
    """Two workers that are to be a node each have one folder; other arguments help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.USAGE)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as its scheduler knows it.

    Attributes:
        address: Where it is reached, and its identity until it ends.
        name: What it is called, also after it was started again.
        host: The address of its host.
    """

    address: str
    name: str
    host: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker is asked before anything begins.

    Attributes:
        per: What is a node.
        cache_dir: The cache, which may hold ``{node}``; ``None`` for the worker's own.
        local_dir: The folder for plain files; the same.
    """

    per: Per
    cache_dir: str | None = None
    local_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker answers.

    Attributes:
        version: Of hf-haul there.
        node: What its node is to be called.
        host: Identity of its host, and of the time since that was started.
        folder: Where files would go.
        missing: A package that hf-haul needs and that is not installed there.
    """

    version: str
    node: str
    host: tuple[str, str]
    folder: str
    missing: str | None = None


def probe(question: Question, worker_name: str) -> Facts:
    """Answer a question; called on the worker that is asked.

    Args:
        question: It.
        worker_name: What the scheduler calls this worker.

    Raises:
        NodeError: It has no folder.
    """
    hostname = socket.gethostname()
    node = _as_name(hostname if question.per == "host" else f"{hostname}-{worker_name}")
    folder = question.local_dir or question.cache_dir or constants.HF_HUB_CACHE
    try:
        folder = absolute_path(fill_in(folder, node) or "")
    except OSError as error:  # a scheduler would take it for one of its connection
        raise NodeError(
            f"the folder that its worker runs in is gone ({describe(error).text})", FailureKind.DISK
        ) from error
    return Facts(
        version=__version__,
        node=node,
        host=(hostname, _boot_id()),
        folder=folder,
        missing=None if find_spec("aiohttp") is not None else "aiohttp",
    )


def fill_in(folder: str | None, node: str) -> str | None:
    """Return a folder's name with that of the node in it.

    Args:
        folder: With or without ``{node}``, or ``None``.
        node: What the node is called.
    """
    return None if folder is None else folder.replace(_NODE, node)


def _as_name(text: str) -> str:
    """Return a name that fits into a folder's; the same for the same text."""
    name = _UNFIT_FOR_NAMES.sub("-", text).strip("-.") or "node"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return name


def _boot_id() -> str:
    """Return what tells this host, since it was started, from another of the same name."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return f"{uuid.getnode():x}"


@dataclass
class Census:
    """Which workers there are, by what they have answered, and which nodes they make. For one thread.

    Args:
        per: What is a node.

    Attributes:
        nodes: Of each node its name, by its identity, in the order in which they became known.
    """

    per: Per
    nodes: dict[Hashable, str] = field(default_factory=dict, init=False)
    _keys: dict[str, Hashable] = field(default_factory=dict, init=False)  # of nodes, by a worker's address
    _hosts: set[str] = field(default_factory=set, init=False)  # that have a node
    _owners: dict[Hashable, tuple[Hashable, Worker]] = field(default_factory=dict, init=False)
    _refused: dict[str, tuple[Worker, Exception]] = field(default_factory=dict, init=False)

    def note(self, worker: Worker, answer: Facts | Exception) -> Hashable | None:
        """Take in what a worker answered; return the identity of its node, ``None`` if it can be none.

        Args:
            worker: It.
            answer: Its answer, or why there is none.

        Raises:
            SameFolderError: It is to be a node of its own, and another one has the same folder.
        """
        if isinstance(answer, Exception):
            self._refused[worker.address] = worker, _in_words(answer)
            return None
        problem = _problem(answer)
        if problem is not None:
            self._refused[worker.address] = worker, problem
            return None
        place = (*answer.host, answer.folder)
        key: Hashable = place if self.per == "host" else (worker.name, place)
        owner, first = self._owners.setdefault(place, (key, worker))
        if owner != key:
            raise SameFolderError(
                f"Workers {first.name} and {worker.name} of {answer.host[0]} have the same folder, "
                f"{answer.folder}. Use per='host', or put {_NODE} into cache_dir or local_dir"
            )
        self._keys[worker.address] = key
        self._hosts.add(worker.host)
        if key not in self.nodes:
            self.nodes[key] = self._free_name(answer.node)
        return key

    @property
    def refused(self) -> dict[str, Exception]:
        """Why workers can be no nodes, by the name that is shown; not of hosts where another worker can."""
        found: dict[str, Exception] = {}
        for worker, error in self._refused.values():
            if self.per == "worker":
                found.setdefault(_as_name(f"{worker.host}-{worker.name}"), error)
            elif worker.host not in self._hosts:
                found.setdefault(_as_name(worker.host), error)
        return found

    def key_of(self, address: str) -> Hashable | None:
        """Return the identity of a worker's node; ``None`` if it is not known, or can be none."""
        return self._keys.get(address)

    def _free_name(self, wanted: str) -> str:
        taken = set(self.nodes.values())
        numbered = (f"{wanted}-{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (wanted, *numbered) if name not in taken)


def _problem(facts: Facts) -> Exception | None:
    """Return why a worker that has answered cannot be a node."""
    if facts.version != __version__:
        return NodeError(
            f"hf-haul {facts.version} is installed there, and {__version__} here. "
            "Install the same version on both"
        )
    if facts.missing is not None:
        return NodeError(
            f"{facts.missing} is not installed there. Install hf-haul there with its extra, dask or ray"
        )
    return None


def _in_words(error: Exception) -> Exception:
    """Return an error that says what is wrong with a worker's installation, where it is one of importing.

    A scheduler may hand it on as the text of another error.
    """
    said = f"{type(error).__name__}: {error}"
    absent = _ABSENT.search(said)
    if absent is not None and absent[1] == "hf_haul":
        return NodeError(
            f"hf-haul is not installed there. Install hf-haul {__version__} where the workers run"
        )
    if absent is not None or _OTHER_VERSION.search(said) or isinstance(error, ImportError):
        return NodeError(
            f"hf-haul there is another version, or incomplete ({error}). Install hf-haul {__version__} there"
        )
    if isinstance(error, NodeError):
        return error
    return NodeError(f"it cannot be asked: {describe(error).text}", FailureKind.NETWORK)
