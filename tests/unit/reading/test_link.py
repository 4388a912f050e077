"""How large requests are, by what the link has shown."""

from __future__ import annotations

import pytest

from hf_haul.reading.link import Link

KiB = 1 << 10
MiB = 1 << 20


@pytest.mark.parametrize(
    ("link", "unit", "part"),
    [
        pytest.param(Link(), MiB, 128 * KiB, id="nothing is known"),
        pytest.param(Link(10e6, None), MiB, 128 * KiB, id="half is known"),
        pytest.param(Link(10e6, 0.05), 500_000, 125_000, id="far"),
        pytest.param(Link(25e6, 0.02), 500_000, 250_000, id="near: a hundredth of a second at the least"),
        pytest.param(Link(1e9, 1.0), 4 * MiB, 4 * MiB, id="fast"),
        pytest.param(Link(1e4, 0.001), 64 * KiB, 64 * KiB, id="slow"),
        pytest.param(Link(None, 2.0), MiB, 64 * MiB, id="answers slowly, at an unknown speed"),
        pytest.param(Link(10e6, 12.0), 4 * MiB, 120_000_000, id="answers slowly"),
        pytest.param(Link(1e4, 12.0), 120_000, 120_000, id="answers slowly, and sends slowly"),
    ],
)
def test_requests_are_as_large_as_pays(link: Link, unit: int, part: int) -> None:
    assert link.unit == unit
    assert link.part == part


def test_a_connection_sends_for_half_of_its_time_where_requests_are_of_one_unit() -> None:
    link = Link(10e6, 0.05)
    assert link.sending(500_000) == 0.5
    assert link.sending(4096) < 0.01
    assert link.sending(16 * MiB) > 0.95
