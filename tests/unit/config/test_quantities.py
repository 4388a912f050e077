"""The words for sizes and rates."""

from __future__ import annotations

from typing import Any

import pytest

from hf_haul.config import GiB, KiB, MiB, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("17", 17), (17, 17), ("1k", 1000), ("1K", 1000), ("1kB", 1000), ("1KiB", KiB), ("16MiB", 16 * MiB),
        ("16 mib", 16 * MiB), ("1.5GB", 1_500_000_000), ("2GiB", 2 * GiB), ("1T", 10**12), ("1TiB", 2**40),
        ("0.5MiB", MiB // 2), ("  8M  ", 8_000_000), ("12B", 12), ("12b", 12), ("8Mbit", 1_000_000), ("8Mb", 8_000_000),
        ("8mb", 8_000_000), ("8mib", 8 * MiB),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50MB/s", 50_000_000), ("50MBps", 50_000_000), ("50M", 50_000_000), ("400Mbit/s", 50_000_000),
        ("400Mb/s", 50_000_000), ("400Mbps", 50_000_000), ("50mb/s", 50_000_000), ("8Kib/s", KiB), ("1GiB/s", GiB), ("12345", 12345), (12345, 12345), (1.5e6, 1_500_000),
        (None, None), ("", None), ("0", None), ("none", None), (" Unlimited ", None),
    ],
)  # fmt: skip
def test_rates_are_read(text: Any, rate: int | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "-1", "1.2.3M", "10 apples", "MB", "1e6", "5MB/s"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="16MiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["fast", "-1", "10 MB/h", "/s"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="50MB/s"):
        parse_rate(text)


def test_a_rate_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"^not a rate for max_bandwidth: 'fast'; write for instance '50MB/s'$"
    ):
        parse_rate("fast", "max_bandwidth")
    with pytest.raises(TypeError, match=r"^not a rate for max_bandwidth: \[1\]; write a number"):
        parse_rate([1], "max_bandwidth")  # type: ignore[arg-type]  # the mistake to be told
