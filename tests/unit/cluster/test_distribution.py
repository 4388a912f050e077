"""What a distribution came to."""

from __future__ import annotations

import pickle

import pytest

from hf_haul.cluster.distribution import Distribution, DistributionError
from hf_haul.cluster.results import NodeResult
from hf_haul.errors import ConnectionFailedError, DiskFullError
from hf_haul.failures import FailureKind, describe


def test_the_bytes_of_all_nodes_are_added_up() -> None:
    nodes = {"a": NodeResult("/x", 3, 4, 5), "b": NodeResult("/y", 10, 20, 30)}
    found = Distribution("org/m", "c" * 40, nodes, 1.5)
    assert (found.origin_bytes, found.peer_bytes, found.errors) == (13, 24, {})
    found.raise_for_errors()
    assert found.as_dict()["nodes"]["b"]["present_bytes"] == 30


def test_all_nodes_that_failed_are_named_each_in_a_line() -> None:
    full = DiskFullError("/data is full: 3 MB are missing. Free some")
    broken = ConnectionFailedError("10.0.0.7 sends nothing")
    found = Distribution(
        "org/m", "c" * 40, {"a": NodeResult(error=full), "b": NodeResult("/x"), "c": NodeResult(error=broken)}
    )
    with pytest.raises(DistributionError) as caught:
        found.raise_for_errors()
    error = pickle.loads(pickle.dumps(caught.value))
    assert list(error.errors) == ["a", "c"]
    assert str(error).splitlines() == [
        "2 of 3 nodes failed",
        "a: /data is full: 3 MB are missing",
        "c: 10.0.0.7 sends nothing",
    ]
    assert describe(error).kind is FailureKind.DISK  # the first one's
    assert describe(error).text == "2 of 3 nodes failed"
    assert len(describe(error).details) == 2


def test_of_many_nodes_that_failed_some_are_named_and_the_rest_counted() -> None:
    errors: dict[str, Exception] = {f"n{number}": ConnectionFailedError("away") for number in range(30)}
    error = DistributionError.of(errors, 30)
    assert len(error.errors) == 30
    assert str(error).splitlines()[-1] == "and 10 more"
