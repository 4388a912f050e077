from __future__ import annotations

import json
from typing import Any

import pytest

from hf_haul.cluster.bitmaps import bits_of
from hf_haul.cluster.node_state import NodeState


def test_what_another_node_says_does_not_move_a_terminal_nor_fill_a_log() -> None:
    said = {**NodeState("n1", 7).to_json(), "error": "\x1b[2Jfull\n" + "!" * 100_000}
    error = NodeState.from_json(said, 100).error
    assert error is not None
    assert error.isprintable()
    assert error.startswith("?[2Jfull?!")
    assert len(error) == 300


def test_a_state_comes_back_from_its_json() -> None:
    state = NodeState("n1", 7, bits_of([3, 99]), frozenset({5, 2}), done=True, error="full")
    assert NodeState.from_json(json.loads(json.dumps(state.to_json())), 100) == state


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 3}, {"version": "1"}, {"version": True}, {"have": None}, {"have": "?"}, {"claims": [100]},
        {"claims": [-1]}, {"claims": "x"}, {"done": 1}, {"error": 5},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_state_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not (the state|a bitmap)"):
        NodeState.from_json({**NodeState("n1", 7).to_json(), **changes}, 100)
