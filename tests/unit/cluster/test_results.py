"""What became of a node, and how it is told elsewhere."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hf_haul.cluster.results import NodeError, NodeResult, portable
from hf_haul.errors import ConnectionFailedError, DiskFullError
from hf_haul.failures import FailureKind, describe


def caused() -> Exception:
    error = LocalEntryNotFoundError("nothing here")
    error.__cause__ = ConnectionFailedError("the Hub does not answer")
    return error


def unpicklable() -> Exception:
    error = DiskFullError("/data is full: 3 MB are missing. Free some space")
    error.answer = threading.Lock()  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("make", [caused, unpicklable])
def test_an_error_says_on_other_machines_what_it_says_on_its_own(make: Callable[[], Exception]) -> None:
    error = make()
    result = pickle.loads(pickle.dumps(portable(NodeResult(error=error))))
    assert result.error is not None
    assert describe(result.error) == describe(error)


def test_an_error_that_cannot_leave_its_machine_is_replaced() -> None:
    assert isinstance(portable(NodeResult(error=unpicklable())).error, NodeError)


def test_an_error_that_can_be_pickled_stays_what_it_is() -> None:
    result = pickle.loads(pickle.dumps(portable(NodeResult(seconds=2.0, error=DiskFullError("full")))))
    assert isinstance(result.error, DiskFullError)
    assert result.seconds == 2.0


def test_a_node_error_keeps_its_kind_across_processes() -> None:
    error = pickle.loads(pickle.dumps(NodeError("it is gone", FailureKind.NETWORK)))
    assert (str(error), error.kind) == ("it is gone", FailureKind.NETWORK)
    assert describe(error).kind is FailureKind.NETWORK


def test_a_result_is_told_as_json_with_its_error_in_one_line() -> None:
    told = NodeResult(error=DiskFullError("/data is full. Free some space")).as_dict()
    assert told["error"] == {"kind": "disk", "message": "/data is full"}
    assert NodeResult("/data/snapshot", origin_bytes=7).as_dict() == {
        "path": "/data/snapshot", "origin_bytes": 7, "peer_bytes": 0, "present_bytes": 0, "seconds": 0.0,
        "error": None,
    }  # fmt: skip
