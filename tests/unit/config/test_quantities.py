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
        ("50MB/s", 50_000_000), ("50MBps", 50_000_000), ("50mB/s", 50_000_000), ("50M", 50_000_000), ("50m", 50_000_000),
        ("400Mbit/s", 50_000_000), ("400mbit", 50_000_000), ("8Kibit/s", KiB), ("1GiB/s", GiB), ("800bit/s", 100),
        ("12345", 12345), ("1000", 1000), ("999B/s", 999), ("0.5k", 500), ("1bit/s", 1), ("1.1kB/s", 1100),
        (12345, 12345), (1.5e6, 1_500_000), (5, 5), (0.5, 0),
        (None, None), ("", None), ("0", None), ("0MB/s", None), ("0.0", None), ("none", None), (" Unlimited ", None),
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


@pytest.mark.parametrize(
    ("text", "bits", "in_bytes"),
    [
        ("10mbps", "10Mbit/s", "10MB/s"), ("10Mbps", "10Mbit/s", "10MB/s"), ("100Mb/s", "100Mbit/s", "100MB/s"),
        ("50mb/s", "50Mbit/s", "50MB/s"), ("8Kib/s", "8Kibit/s", "8KiB/s"), ("1 gb", "1Gbit/s", "1GB/s"),
        ("9600bps", "9600bit/s", "9600B/s"),
    ],
)  # fmt: skip
def test_a_rate_that_may_be_bits_or_bytes_is_refused_with_both(text: str, bits: str, in_bytes: str) -> None:
    with pytest.raises(ValueError, match="is ambiguous") as caught:
        parse_rate(text)
    assert f"write {bits} for bits, or {in_bytes} for bytes" in str(caught.value)
    assert parse_rate(in_bytes) == 8 * (parse_rate(bits) or 0)


@pytest.mark.parametrize("text", ["1", "50", "999", "0.5", " 100 "])
def test_a_small_number_without_a_unit_is_refused_with_advice(text: str) -> None:
    with pytest.raises(ValueError, match=f"write {text.strip()}MB/s or {text.strip()}Mbit/s"):
        parse_rate(text)


def test_a_rate_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"^not a rate for max_bandwidth: 'fast'; write for instance '50MB/s'$"
    ):
        parse_rate("fast", "max_bandwidth")
    with pytest.raises(TypeError, match=r"^not a rate for max_bandwidth: \[1\]; write a number"):
        parse_rate([1], "max_bandwidth")  # type: ignore[arg-type]  # the mistake to be told
