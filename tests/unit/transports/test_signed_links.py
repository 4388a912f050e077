"""How long signed URLs are good for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hf_haul.transports.signed_links import link_lifetime, usable_seconds

NOW = 1_800_000_000.0


@pytest.fixture
def _somewhere_else(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is not that of signatures."""
    if not hasattr(time, "tzset"):
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=60", 60.0, id="aws"),
        pytest.param("x-goog-date=20270115T080000Z&x-goog-expires=60", 60.0, id="google"),
        pytest.param("Expires=1800000060", 60.0, id="cloudfront"),
        pytest.param("se=2027-01-15T08%3A01%3A00Z", 60.0, id="azure"),
        pytest.param("se=2027-01-15T08%3A01%3A00", 60.0, id="azure without a zone"),
        pytest.param("se=2027-01-16", 57_600.0, id="azure's day"),
        pytest.param("se=0001-01-01", -63_935_596_800.0, id="a day before all local times"),
        pytest.param("", None, id="none"),
        pytest.param("X-Amz-Date=00000101T000000Z&X-Amz-Expires=60", None, id="no year"),
        pytest.param("X-Amz-Date=20260230T000000Z&X-Amz-Expires=60", None, id="no day of that month"),
        pytest.param("X-Amz-Date=99999999T999999Z&X-Amz-Expires=60", None, id="no date"),
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=" + "9" * 5000, None, id="5000 digits"),
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=%D9%A3", None, id="digits of another script"),
        pytest.param("Expires=" + "9" * 5000, None, id="5000 digits of a moment"),
        pytest.param("se=tomorrow", None, id="no moment"),
        pytest.param("&".join("a=1" for _ in range(5000)), None, id="many words"),
    ],
)
@pytest.mark.usefixtures("_somewhere_else")
def test_a_link_lives_for_as_long_as_its_query_says_if_that_can_be_read(
    query: str, seconds: float | None
) -> None:
    assert link_lifetime(f"https://cdn.test/a?{query}", lambda: NOW) == seconds


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        pytest.param("1800000060", 50.0, id="not to its very end"),
        pytest.param("1800000004", 2.0, id="half of a short time"),
        pytest.param("1799999000", float("inf"), id="a clock that differs"),
        pytest.param("", float("inf"), id="no end"),
    ],
)
def test_a_fresh_link_is_used_until_shortly_before_its_end(expires: str, seconds: float) -> None:
    assert usable_seconds(f"https://cdn.test/a?Expires={expires}", lambda: NOW) == seconds
