"""The job that the simulation of many nodes is checked against runs, and both send the same through the uplink."""

from __future__ import annotations

import pytest
from tests.benchmarks.real_swarm import CASES, MIB, measured, setting_of
from tests.benchmarks.sim_swarm import distributed


@pytest.mark.parametrize("case", CASES)
def test_the_job_and_its_simulation_send_each_byte_once(case: str) -> None:
    setting = setting_of(case, size=4 * MIB, nodes=3)
    seconds, nbytes = measured(setting)
    outcome = distributed(setting)
    assert outcome.origin_bytes <= 1.05 * setting.size
    assert (
        setting.size <= nbytes <= 1.5 * setting.size
    )  # where processors are busy, a node may be taken for slow
    assert setting.bound * 0.8 <= seconds
    assert setting.bound <= outcome.last <= 3 * setting.bound
