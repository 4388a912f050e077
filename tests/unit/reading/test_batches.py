"""Which ranges are read together, and how they are cut into parts."""

from __future__ import annotations

import itertools

import pytest

from hf_haul.reading.batches import split

KiB = 1 << 10
MiB = 1 << 20


@pytest.mark.parametrize(
    ("start", "stop", "part", "lanes", "parts"),
    [
        pytest.param(0, 0, MiB, 16, 1, id="nothing"),
        pytest.param(0, 4 * MiB - 1, MiB, 16, 1, id="not worth several requests"),
        pytest.param(0, 4 * MiB, MiB, 16, 4, id="worth four"),
        pytest.param(5, 5 + 2 * MiB, 64 * KiB, 16, 32, id="small ones where they pay"),
        pytest.param(0, 64 * MiB, MiB, 16, 32, id="two for each connection"),
        pytest.param(0, 1024 * MiB, MiB, 16, 64, id="no part above 16 MiB"),
        pytest.param(0, 1024 * MiB, 64 * MiB, 16, 16, id="no part that is not worth a request"),
        pytest.param(0, 64 * MiB, MiB, 1, 1, id="one connection"),
    ],
)
def test_a_read_is_cut_into_parts_that_pay(start: int, stop: int, part: int, lanes: int, parts: int) -> None:
    cut = split(start, stop, part, lanes)
    assert len(cut) == parts
    assert cut[0][0] == start
    assert cut[-1][1] == stop
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
