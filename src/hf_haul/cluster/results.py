"""What became of each node of a distribution, and how that crosses from one machine to another."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

from hf_haul.errors import HaulError
from hf_haul.failures import FailureKind, describe

__all__ = ["NodeError", "NodeResult", "WorkerLostError", "portable"]


class WorkerLostError(HaulError):
    """A worker is gone, or what was to be done on it was forgotten; another attempt may do."""


class NodeError(HaulError):
    """Why a node did not get its files, where the error itself cannot leave that node, or there is none.

    Attributes:
        kind: What it is about; the command's exit code follows from it.
    """

    def __init__(self, message: str, kind: FailureKind = FailureKind.OTHER) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class NodeResult:
    """What became of one node.

    Attributes:
        path: Where its files are: the snapshot's folder, or the local one; ``None`` if it failed.
        origin_bytes: Bytes that it fetched from the Hub, those thrown away included.
        peer_bytes: Bytes that it fetched from other nodes, those thrown away included.
        present_bytes: Bytes that were in place before.
        seconds: How long it took, from its start until its own files were in place.
        error: Why it failed; ``None`` if all its files are in place.
    """

    path: str | None = None
    origin_bytes: int = 0
    peer_bytes: int = 0
    present_bytes: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; the error as its one line, with its kind."""
        failure = None if self.error is None else describe(self.error)
        return {
            "path": self.path,
            "origin_bytes": self.origin_bytes,
            "peer_bytes": self.peer_bytes,
            "present_bytes": self.present_bytes,
            "seconds": self.seconds,
            "error": None if failure is None else {"kind": failure.kind.value, "message": failure.text},
        }


def portable(result: NodeResult) -> NodeResult:
    """Return a result that says the same after it was pickled here and unpickled elsewhere.

    An error that would not, because it holds an answer of a server or has its reason in its cause, which
    pickling loses, is replaced by a :class:`NodeError`.

    Args:
        result: It.
    """
    if result.error is None:
        return result
    failure = describe(result.error)
    try:
        if describe(pickle.loads(pickle.dumps(result.error))) == failure:  # noqa: S301  our own bytes
            return result
    except Exception:  # noqa: BLE001, S110  an error of any class fails at this in its own way
        pass
    hint = f". {failure.hint}" if failure.hint else ""
    return replace(result, error=NodeError(f"{failure.text}{hint}", failure.kind))
