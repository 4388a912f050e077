"""Sources that take long to their first byte: one such time for all files, and no request more than needed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from tests.support.engine import SMALL, TOKEN, Rig, serve_files
from tests.support.repos import random_bytes

from hf_haul.config import MiB, Settings, Timings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.testing.faults import Delay
from hf_haul.metrics import SourceHistory

#: Seconds to a first byte in these tests, which count as slow.
ANSWER = 1.0
SETTINGS = Settings(durable=False, timings=Timings(slow_answer=ANSWER / 2))
LARGE = tuple(f"{number}.safetensors" for number in range(3))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    large = {path: random_bytes(12 * MiB, path) for path in LARGE}
    with serve_files(tmp_path / "out", more=large) as rig:
        rig.settings = SETTINGS
        yield rig
        rig.hub.faults.release()


def asked(rig: Rig, kind: str) -> list[int]:
    """Requests of a kind for each file that was asked for."""
    return sorted(Counter(record.path for record in rig.hub.requests.of(kind)).values())


@pytest.mark.parametrize(
    ("lfs", "slow", "hops"),
    [
        pytest.param("direct", ("resolve",), 1, id="the Hub"),
        pytest.param("redirect", ("cdn",), 1, id="the storage"),
        pytest.param("redirect", ("resolve", "cdn"), 2, id="both"),
    ],
)
def test_every_file_comes_with_one_request_and_in_the_time_of_one_answer(
    rig: Rig, lfs: Literal["direct", "redirect"], slow: tuple[str, ...], hops: int
) -> None:
    rig.hub.options.lfs = lfs
    for kind in slow:
        rig.hub.faults.add(Delay(ANSWER), kind=kind, times=None)
    began = time.monotonic()
    outcome = rig.fetch(*LARGE)
    seconds = time.monotonic() - began
    assert outcome.errors == {}
    assert all(map(rig.is_whole, LARGE))
    assert asked(rig, "resolve") == [1, 1, 1]
    assert asked(rig, "cdn") == ([1, 1, 1] if lfs == "redirect" else [])
    assert seconds < hops * ANSWER + 10  # the machine may be busy; how often was asked tells


def test_a_quick_answer_for_a_small_file_does_not_have_large_ones_divided(rig: Rig) -> None:
    rig.hub.faults.add(Delay(ANSWER), kind="cdn", times=None)
    with rig.manager() as manager:
        assert manager.submit([rig.request(SMALL)], model_id="org/m").wait(40)
        assert manager.submit([rig.request(path) for path in LARGE], model_id="org/m").wait(40)
    assert asked(rig, "cdn") == [1, 1, 1]


def test_a_source_that_answers_quickly_has_its_files_divided_from_the_first_answer_on(rig: Rig) -> None:
    rig.hub.set_pace(10 * MiB)
    outcome = rig.fetch("0.safetensors")
    assert outcome.errors == {}
    assert rig.is_whole("0.safetensors")
    ranges = [record.range for record in rig.hub.requests.of("cdn")]
    assert ranges[0] == f"bytes=0-{12 * MiB - 1}"
    assert len(ranges) >= 2


@pytest.mark.parametrize("slow", ["resolve", "cdn"])
@pytest.mark.parametrize("before", ["download", "read"])
def test_a_read_is_one_request_once_a_download_or_another_read_was_answered_slowly(
    rig: Rig, before: str, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine connections can be so slow that parts of 12 MiB are too large.
    monkeypatch.setattr(SourceHistory, "connection_speed", lambda *_: 100e6)
    first, second, _ = LARGE
    fs = HaulFileSystem(endpoint=rig.hub.url, token=TOKEN.removeprefix("Bearer "), skip_instance_cache=True)
    rig.hub.faults.add(Delay(ANSWER), kind=slow, times=None)
    with rig.manager() as fs.manager:
        if before == "download":
            assert fs.manager.submit([rig.request(first)], model_id="org/m").wait(40)
        else:
            assert fs.cat_file(f"org/m/{first}", 0, 1000) == rig.files[first][:1000]
        assert fs.cat_file(f"org/m/{second}") == rig.files[second]
    assert asked(rig, "resolve") == [1, 1]
    assert asked(rig, "cdn") == [1, 1]
