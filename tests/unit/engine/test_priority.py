"""What goes first."""

from __future__ import annotations

import posixpath

import pytest

from hf_haul.engine.priority import DefaultPolicy, _suffix
from hf_haul.task import DownloadPriority

HIGH, NORMAL, LOW = DownloadPriority.HIGH, DownloadPriority.NORMAL, DownloadPriority.LOW


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        pytest.param("config.json", 600, HIGH, id="configuration"),
        pytest.param("tokenizer.json", 17_000_000, HIGH, id="a large tokenizer"),
        pytest.param("tokenizer.model", 500_000, HIGH, id="sentencepiece"),
        pytest.param("model.safetensors.index.json", 90_000, HIGH, id="an index"),
        pytest.param("LICENSE", 11_000, HIGH, id="no suffix"),
        pytest.param("a.b/.gitattributes", 1_500, HIGH, id="a hidden file"),
        pytest.param("notes.", 500, HIGH, id="an empty suffix"),
        pytest.param("a/b/chat_template.jinja", 3_000, HIGH, id="in a folder"),
        pytest.param("train.json", 60_000_000, NORMAL, id="json that is data"),
        pytest.param("logo.png", 60_000, NORMAL, id="a picture"),
        pytest.param("model.safetensors", 99_999_999, NORMAL, id="small weights"),
        pytest.param("model.safetensors", 100_000_000, LOW, id="weights"),
        pytest.param("dump.txt", 5_000_000_000, LOW, id="a huge text"),
        pytest.param("unknown", None, NORMAL, id="size unknown"),
    ],
)
def test_priority_follows_type_and_size(path: str, size: int | None, expected: DownloadPriority) -> None:
    assert DefaultPolicy()(path, size)[0] is expected


def test_inside_high_and_normal_the_smallest_goes_first_and_inside_low_the_largest() -> None:
    policy = DefaultPolicy()
    assert policy("b.json", 1)[1] < policy("a.json", 2)[1]
    assert policy("b.bin", 1)[1] < policy("a.bin", 2)[1]
    assert policy("b.bin", 2 * 10**9)[1] < policy("a.bin", 10**9)[1]


@pytest.mark.parametrize(
    "path",
    ["a", "a.B", "a.b.C", ".a", "..a", "...", "..a.B", "a.", "a/b", "a.b/c", "a.b/.c", "a/..c", "a/.c.D", ""],
)
def test_a_suffix_is_that_of_posixpath_in_small_letters(path: str) -> None:
    assert _suffix(path) == posixpath.splitext(path)[1].lower()
