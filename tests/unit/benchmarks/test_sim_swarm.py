"""A simulated job ends as formulas say where they can tell, and as the policy of real jobs has to where they cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.benchmarks.schemes import SCHEMES
from tests.benchmarks.sim_swarm import CASES, GB, JOBS, MIB, distributed, followed, main, setting_of, variant
from tests.benchmarks.swarm_model import Setting

SIX = setting_of(6, 2 * GB, 16 * MIB)
SCHEME = {scheme.name: scheme for scheme in SCHEMES}


@pytest.mark.parametrize("name", ["each from the Hub", "chain"])
def test_what_nodes_with_one_source_need_is_what_the_formula_says(name: str) -> None:
    outcome = followed(SIX, SCHEME[name])
    assert outcome.last == pytest.approx(SCHEME[name].seconds(SIX), rel=0.1)
    assert outcome.origin_bytes == pytest.approx(SCHEME[name].uplink_bytes(SIX))


def test_one_slow_node_of_a_chain_holds_up_all_behind_it() -> None:
    outcome = followed(replace(SIX, slow={2}), SCHEME["chain"])
    assert min(outcome.seconds[number] for number in (3, 4, 5)) > 3 * outcome.seconds[1]


def test_the_least_time_is_that_of_whatever_is_the_narrowest() -> None:
    stripes = [1_000] * 100
    assert Setting(10, stripes, uplink=100.0, nic=1_000.0).bound == 1_000.0
    assert Setting(10, stripes, uplink=1_000.0, nic=100.0).bound == 1_000.0
    assert Setting(10, stripes, uplink=1_000.0, nic=100.0, takes=1e9).bound == 500.0


@pytest.mark.parametrize("nodes", [2, 6, 16])
def test_nodes_that_are_all_well_use_the_uplink_once(nodes: int) -> None:
    outcome = distributed(setting_of(nodes, 2 * GB, 16 * MIB))
    assert len(outcome.seconds) == nodes
    assert outcome.origin_bytes <= 1.05 * outcome.setting.size
    assert outcome.last <= 1.4 * outcome.setting.bound
    assert outcome.peer_bytes >= (nodes - 1.05) * outcome.setting.size


@pytest.mark.parametrize("case", ["killed", "vanished"])
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_node_that_ends_half_way_costs_the_uplink_no_more_than_twice_its_share(
    case: str, seed: int
) -> None:
    outcome = distributed(variant(replace(SIX, seed=seed), case))
    assert len(outcome.seconds) == 5
    assert outcome.origin_bytes <= (1 + 2 / 6) * SIX.size


def test_a_node_at_a_tenth_of_the_pace_does_not_keep_the_others() -> None:
    well, outcome = distributed(SIX), distributed(replace(SIX, slow={2}))
    assert outcome.last <= 1.2 * well.last
    assert outcome.slowest >= SIX.size / (SIX.nic / 10), "the slow node took more than its network gives"


def test_help_says_what_each_number_of_nodes_costs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    costs = capsys.readouterr().out.partition("One case takes")[2]
    assert [nodes for nodes in JOBS if f"{nodes:,}" not in costs] == []


def test_many_nodes_soon_notice_that_one_is_gone_and_fetch_what_was_its_to_fetch() -> None:
    setting = variant(setting_of(100, GB, 32 * MIB), "killed")
    outcome = distributed(setting)
    assert len(outcome.seconds) == 95
    assert outcome.last <= 1.3 * distributed(replace(setting, killed={})).last
    assert distributed(replace(setting, watch_every=100.0)).last > 1.1 * outcome.last


def test_the_table_has_a_row_for_each_scheme_and_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "6", "--size", "1", "--stripe", "16"]) == 0
    table = capsys.readouterr().out
    assert [scheme.name for scheme in SCHEMES if scheme.name not in table] == []
    assert [words for words in CASES.values() if words not in table] == []
