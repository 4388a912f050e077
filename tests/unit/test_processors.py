"""What a container or a batch job may use of a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_haul.processors import usable_processors

MACHINE = 64


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(MACHINE)), raising=False)


class Groups:
    """Control groups, as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.membership = folder / "cgroup"
        self.hierarchies = folder / "hierarchies"

    def write(self, path: str, text: str) -> None:
        file = self.hierarchies / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def usable(self, *membership: str) -> float:
        self.membership.write_text("".join(f"{line}\n" for line in membership))
        return usable_processors(self.membership, self.hierarchies)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_without_control_groups_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_processors(tmp_path / "none", tmp_path) == MACHINE


def test_a_system_without_affinity_says_how_many_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors(tmp_path / "none", tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors(tmp_path / "none", tmp_path) == 1


def test_a_containers_quota_counts(groups: Groups) -> None:
    groups.write("cpu.max", "250000 100000\n")
    assert groups.usable("0::/") == 2.5


def test_the_smallest_quota_around_a_group_counts(groups: Groups) -> None:
    groups.write("slurm/job/step/cpu.max", "max 100000\n")
    groups.write("slurm/job/cpu.max", "400000 100000\n")
    groups.write("slurm/cpu.max", "1600000 100000\n")
    assert groups.usable("0::/slurm/job/step") == 4


def test_no_quota_is_none(groups: Groups) -> None:
    groups.write("cpu.max", "max 100000\n")
    assert groups.usable("0::/") == MACHINE


def test_a_quota_above_the_affinity_changes_nothing(groups: Groups) -> None:
    groups.write("cpu.max", "12800000 100000\n")
    assert groups.usable("0::/") == MACHINE


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_one_has_files_of_its_own(groups: Groups, folder: str) -> None:
    groups.write(f"{folder}/docker/a1/cpu.cfs_quota_us", "150000\n")
    groups.write(f"{folder}/docker/a1/cpu.cfs_period_us", "50000\n")
    groups.write(f"{folder}/cpu.cfs_quota_us", "-1\n")
    groups.write(f"{folder}/cpu.cfs_period_us", "100000\n")
    assert groups.usable("3:cpuset:/", "2:cpu,cpuacct:/docker/a1", "1:memory:/docker/a1") == 3


def test_a_group_seen_from_inside_a_container_is_the_root(groups: Groups) -> None:
    groups.write("cpu/cpu.cfs_quota_us", "50000\n")
    groups.write("cpu/cpu.cfs_period_us", "100000\n")
    assert groups.usable("2:cpu,cpuacct:/docker/not/to/be/seen") == 0.5


@pytest.mark.parametrize(
    "text", ["soon", "", "100000", "100000 0", "0 100000", "-1 100000", "100000 -1", f"{10**400} 1"]
)
def test_what_makes_no_sense_sets_no_limit(groups: Groups, text: str) -> None:
    groups.write("cpu.max", text)
    groups.write("cpu/cpu.cfs_quota_us", "100000")
    groups.write("cpu/cpu.cfs_period_us", "0")
    assert groups.usable("0::/", "1:cpu:/", "no line of this kind") == MACHINE


def test_a_system_that_does_not_say_has_what_it_was_built_with(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> set[int]:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    assert groups.usable() == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(), raising=False)
    assert groups.usable() == 6


def test_the_real_thing_is_no_more_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 0 < usable_processors() <= (os.cpu_count() or 1)
