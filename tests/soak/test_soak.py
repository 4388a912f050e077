"""Minutes of everything at once, with everything going wrong: nothing is wrong, nothing hangs, nothing is left."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.soak.work import HUNG
from tests.support.repos import random_bytes

_ROOT: Final = Path(__file__).parents[2]
_GROWTH: Final = 20 << 20  # bytes
_FAILED: Final = 0.01  # share of what is done that may fail, with a hub like this
_VARIED: Final = 120.0  # seconds in which everything happens
_DONE: Final = (
    "file", "fork", "kill", "queue", "read", "shared snapshot", "snapshot", "stream", "children killed",
    "children that did it", "queues cancelled or failed",
)  # fmt: skip
_SLACK: Final = 420.0  # seconds after the end in which all must be over

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


def make_source(folder: Path) -> Path:
    """Repositories: of large and of small files, and one to read from."""
    sizes = {
        "down": {
            "model.safetensors": 9_000_000,
            "w1.bin": 3_000_000,
            "w2.bin": 1_200_000,
            "config.json": 700,
        },
        "many": {f"sub{i % 7}/f{i}.json": 20 + 37 * i for i in range(80)},
        "reads": {
            "big.bin": 8_000_000,
            "mid.bin": 900_000,
            "small.bin": 30_000,
            "table.csv": 5_000,
            "none.txt": 0,
        },
    }
    for repo, files in sizes.items():
        for name, size in files.items():
            path = folder / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random_bytes(size, repo, name))
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'src'}",
        **more,
    }


@contextmanager
def hub(source: Path, seed: str, env: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak.hub", str(source), seed],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=_ROOT,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def _require_variety(done: dict[str, int], faults: dict[str, int]) -> None:
    """Whatever is borne has to have happened, and nearly all that was asked for has to have been done."""
    assert all(done.get(name) for name in _DONE), done
    assert all(faults.values()), faults
    failed = sum(count for name, count in done.items() if name.endswith("(failed)"))
    assert failed < _FAILED * sum(done.values())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and forks")
def test_nothing_is_wrong_nothing_hangs_nothing_is_left(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = float(request.config.getoption("--seconds", 480.0))
    seed = request.config.getoption("--seed", None) or secrets.token_hex(4)
    source = make_source(tmp_path / "source")
    # Short waits bring more of everything into the same time.
    env = environment(
        tmp_path / "home",
        HF_HAUL_STALL_TIMEOUT="3",
        HF_HAUL_GIVE_UP_AFTER="30",
        HF_HAUL_DURABLE="0",
        # Else glibc keeps larger and larger blocks among those in use, and what is measured is its habits.
        MALLOC_MMAP_THRESHOLD_="131072",
        MALLOC_ARENA_MAX="2",
    )
    (tmp_path / "place").mkdir()
    with hub(source, seed, env) as (url, serving):
        command = [sys.executable, "-m", "tests.soak.work", url, source, tmp_path / "place", seconds, seed]
        with (tmp_path / "stderr").open("w") as stderr:
            done = subprocess.run(
                [str(word) for word in command],
                stdout=subprocess.PIPE, stderr=stderr, text=True, env=env, cwd=_ROOT, check=False,
                timeout=seconds + _SLACK,
            )  # fmt: skip
        told, _ = serving.communicate(timeout=60)
    errors = (tmp_path / "stderr").read_text()
    with capsys.disabled():
        print(f"\nseed {seed}")
        if done.returncode or os.environ.get("SOAK_GROWTH"):
            print(errors[-20_000:])
        report: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        print(json.dumps({**json.loads(told), **report}, indent=1))
    assert done.returncode != HUNG, "something hung; the stacks are above"
    assert done.returncode == 0
    assert report["wrong"] == {}
    assert report["our_faults"] == {}, errors[-5000:]
    assert report["threads_left"] == []
    assert report["descriptors_left"] == []
    assert report["memory_at_the_end"] - report["memory_after_warm_up"] < _GROWTH
    if seconds >= _VARIED:
        _require_variety(report["done"], json.loads(told)["faults"])
