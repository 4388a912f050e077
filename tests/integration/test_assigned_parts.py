"""Several managers that share the work of one repository: each part comes from the origin once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.repos import random_bytes
from tests.support.swarm import SwarmNode, run_swarm

from hf_haul.config import KiB, MiB

STRIPE = 64 * KiB


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    more = {"other.safetensors": random_bytes(700 * KiB, "other"), "third.bin": random_bytes(10, "third")}
    with serve_files(tmp_path, weights=MiB, more=more) as rig:
        yield rig


def finish(*nodes: SwarmNode, timeout: float = 40.0) -> None:
    for node in nodes:
        assert node.handle is not None
        assert node.handle.wait(timeout), f"{node.name}: still {node.handle.progress()}"
        assert node.handle.errors() == []
        for path in node.rig.files:
            assert node.rig.is_whole(path), f"{node.name}: {path}"


def total(rig: Rig) -> int:
    return sum(map(len, rig.files.values()))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_together_they_fetch_the_repository_once(rig: Rig, count: int) -> None:
    with run_swarm(rig, [f"n{i}" for i in range(count)], stripe_bytes=STRIPE) as nodes:
        for node in nodes.values():
            node.begin(list(rig.files))
        finish(*nodes.values())
        assert rig.sent() <= 1.05 * total(rig)
        assert sum(node.from_origin for node in nodes.values()) <= rig.sent()
        for node in nodes.values():
            assert sum(node.by_source.values()) >= total(rig)


def test_what_is_staged_goes_from_node_to_node_before_the_file_is_whole(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "n1"], stripe_bytes=STRIPE) as nodes:
        first, second = nodes.values()
        first.begin([WEIGHTS])
        second.begin([WEIGHTS])
        assert first.handle is not None
        assert second.handle is not None
        assert first.handle.wait(20.0)
        assert second.handle.wait(20.0)
        assert first.from_origin == pytest.approx(MiB / 2, abs=2 * STRIPE)
        assert second.from_origin == pytest.approx(MiB / 2, abs=2 * STRIPE)
        assert first.by_source[second.url] + first.from_origin >= MiB


def test_a_late_joiner_takes_nothing_from_the_origin(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "n1", "late"], stripe_bytes=STRIPE, members=["n0", "n1"]) as nodes:
        late, first = nodes["late"], [nodes["n0"], nodes["n1"]]
        for node in first:
            node.begin(list(rig.files))
        finish(*first)
        for node in first:
            late.hear(node)
        late.begin(list(rig.files))
        finish(late)
        assert late.from_origin == 0


def test_what_a_dead_node_was_to_fetch_is_fetched_by_the_others(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "n1", "dead"], stripe_bytes=STRIPE) as nodes:
        dead = nodes.pop("dead")
        for node in nodes.values():
            node.assigner.note_gone(dead.name)
            node.begin(list(rig.files))
        finish(*nodes.values())
        assert rig.sent() <= (1 + 2 / 3) * total(rig)


def test_a_node_that_says_nothing_is_waited_for_and_then_done_without(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "dumb"], stripe_bytes=STRIPE) as nodes:
        nodes["n0"].begin([SMALL, WEIGHTS])
        assert nodes["n0"].handle is not None
        assert nodes["n0"].handle.wait(20.0)
        assert nodes["n0"].rig.is_whole(WEIGHTS)


def test_a_stripe_that_is_not_what_its_digest_says_comes_from_elsewhere(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "liar"], stripe_bytes=STRIPE) as nodes:
        nodes["liar"].corrupts = True
        for node in nodes.values():
            node.begin(list(rig.files))
        finish(*nodes.values())
        assert nodes["liar"].opened > 0
        assert nodes["n0"].from_origin >= total(rig) / 2


def test_a_node_that_sends_wrong_bytes_with_their_digest_is_named_and_the_result_is_right(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with run_swarm(rig, ["n0", "n1", "liar"], stripe_bytes=STRIPE) as nodes:
        liar = nodes["liar"]
        liar.lies = True
        for node in nodes.values():
            node.begin([WEIGHTS])
        for node in (nodes["n0"], nodes["n1"]):
            assert node.handle is not None
            assert node.handle.wait(40.0)
            assert node.handle.errors() == []
            assert node.rig.is_whole(WEIGHTS)
        assert f"{liar.url} sent wrong bytes" in caplog.text
        for node in (nodes["n0"], nodes["n1"]):
            assert f"{node.url} sent wrong bytes" not in caplog.text


def test_a_second_run_takes_only_what_is_missing(rig: Rig) -> None:
    with run_swarm(rig, ["n0", "n1"], stripe_bytes=STRIPE) as nodes:
        one, two = nodes.values()
        one.begin([WEIGHTS])
        two.begin([WEIGHTS])
        for node in nodes.values():
            assert node.handle is not None
            assert node.handle.wait(20.0)
        before = rig.sent()
        (two.rig.folder / WEIGHTS).unlink()
        two.hear(one)
        two.begin([WEIGHTS])
        assert two.handle.wait(20.0)
        assert two.rig.is_whole(WEIGHTS)
        assert rig.sent() == before
