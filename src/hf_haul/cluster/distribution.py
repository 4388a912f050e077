"""What a whole distribution came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.cluster.results import NodeResult
from hf_haul.errors import HaulError
from hf_haul.failures import describe

__all__ = ["Distribution", "DistributionError"]

#: Nodes that the message of an error names.
_MOST_NAMED: Final = 20


class DistributionError(HaulError):
    """Some nodes, or all of them, did not get their files.

    Attributes:
        errors: Why, by node; empty where there is no node at all.
    """

    def __init__(self, message: str, errors: Mapping[str, Exception] | None = None) -> None:
        super().__init__(message)
        self.errors: Mapping[str, Exception] = dict(errors or {})

    @classmethod
    def of(cls, errors: Mapping[str, Exception], count: int) -> DistributionError:
        """Return the error that names each node, in one line of its own.

        Args:
            errors: Why, by node.
            count: How many nodes there are in all.
        """
        lines = [f"{name}: {describe(error).text}" for name, error in errors.items()]
        more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
        head = f"{len(errors)} of {count} {'node' if count == 1 else 'nodes'} failed"
        return cls("\n".join([head, *lines[:_MOST_NAMED], *more]), errors)


@dataclass(frozen=True)
class Distribution:
    """What :func:`~hf_haul.cluster.distributing.distribute` came to.

    Attributes:
        repo_id: The repository.
        commit: What its revision stood for; all nodes have this commit.
        nodes: What became of each node, by its name.
        seconds: How long all of it took.
    """

    repo_id: str
    commit: str
    nodes: Mapping[str, NodeResult] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def origin_bytes(self) -> int:
        """Bytes that all nodes together fetched from the Hub."""
        return sum(result.origin_bytes for result in self.nodes.values())

    @property
    def peer_bytes(self) -> int:
        """Bytes that the nodes fetched from each other."""
        return sum(result.peer_bytes for result in self.nodes.values())

    @property
    def errors(self) -> dict[str, Exception]:
        """Why nodes failed, by node."""
        return {name: result.error for name, result in self.nodes.items() if result.error is not None}

    def raise_for_errors(self) -> None:
        """Do nothing if every node has its files.

        Raises:
            DistributionError: Some have not; it names each of them.
        """
        errors = self.errors
        if errors:
            raise DistributionError.of(errors, len(self.nodes))

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "origin_bytes": self.origin_bytes,
            "peer_bytes": self.peer_bytes,
            "seconds": self.seconds,
            "nodes": {name: result.as_dict() for name, result in self.nodes.items()},
        }
