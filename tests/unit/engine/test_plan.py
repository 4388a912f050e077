"""From a listing to an order, and from a file to its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_haul.config import GiB, MiB, Settings
from hf_haul.engine.plan import count_parts, make_plan, next_part, part_size
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.ranges import ByteRange
from hf_haul.storage.destinations import LocalDirDestination
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.task import DownloadPriority, FileRequest, RemoteFile


@dataclass(frozen=True)
class Nowhere:
    path: Path
    staging_dir: Path = Path()
    staging_key: str = ""
    former_keys: tuple[str, ...] = ()
    upstream_lock: Path | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def replaces(self, key: str) -> bool:
        return False

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        return False

    def publish(self, staged: Path) -> None:
        raise AssertionError(staged)


class Made(Nowhere):
    """Goes where somebody says when asked."""

    def __init__(self, name: str, ask: Callable[[str], Path]) -> None:
        super().__init__(Path(name))
        object.__setattr__(self, "_ask", partial(ask, name))

    def __getattribute__(self, name: str) -> Any:
        return (
            object.__getattribute__(self, "_ask")() if name == "path" else object.__getattribute__(self, name)
        )


def request(path: str, size: int | None, **more: Any) -> FileRequest:
    return FileRequest(RemoteFile(path, f"https://hub/{path}", size), Nowhere(Path(path)), **more)


def plan(*requests: FileRequest) -> list[str]:
    made = make_plan(
        requests, model_id="org/m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 1.0
    )
    return [each.task.file_path for each in made.files]


def test_what_a_loader_needs_first_goes_first_and_the_largest_weights_lead_the_weights() -> None:
    assert plan(
        request("model-1.safetensors", 4 * GiB),
        request("image.png", 70_000),
        request("model-2.safetensors", 5 * GiB),
        request("tokenizer.json", 2 * MiB),
        request("config.json", 600),
    ) == ["config.json", "tokenizer.json", "image.png", "model-2.safetensors", "model-1.safetensors"]


def test_a_priority_that_was_asked_for_wins_over_the_policy() -> None:
    assert plan(
        request("config.json", 600, priority=DownloadPriority.LOW),
        request("now.bin", 4 * GiB, priority=DownloadPriority.HIGH),
        request("image.png", 70_000),
        request("readme.md", 5),
    ) == ["readme.md", "now.bin", "image.png", "config.json"]


def test_a_path_given_twice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'a\.bin' is given twice"):
        plan(request("a.bin", 1), request("a.bin", 1))


@pytest.mark.parametrize("name", ["a//b", "./a/b", "a/./b", "a/b/", "a/b/."])
def test_one_place_in_two_spellings_is_given_twice(name: str) -> None:
    def to(name: str) -> FileRequest:
        destination = LocalDirDestination(LocalFolder("/nowhere"), name, "0" * 40, "etag")
        return FileRequest(RemoteFile(name, "https://hub/a", 1), destination)

    with pytest.raises(ValueError, match="is given twice"):
        plan(to("a/b"), to(name))


def test_a_negative_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'a\.bin': size must be 0 or more, not -1"):
        plan(request("a.bin", -1))


@pytest.mark.parametrize(
    ("size", "connections", "expected"),
    [
        pytest.param(1, 4, 8 * MiB, id="never below 8 MiB"),
        pytest.param(2 * GiB, 16, 32 * MiB, id="four per connection"),
        pytest.param(100 * GiB, 4, 64 * MiB, id="never above 64 MiB"),
    ],
)
def test_parts_are_about_four_per_connection(size: int, connections: int, expected: int) -> None:
    assert part_size(size, connections, Settings()) == expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        pytest.param(0.0, 8 * MiB, id="speed unknown"),
        pytest.param(20e6 * 0.4, 8 * MiB, id="slow connections"),
        pytest.param(20.5 * MiB, 20 * MiB, id="faster ones"),
        pytest.param(1e12, 64 * MiB, id="no limit to speak of"),
    ],
)
def test_parts_are_shorter_where_one_connection_is_slow(most: float, expected: int) -> None:
    assert part_size(2 * GiB, 4, Settings(), most) == expected


def test_a_part_size_that_was_set_is_kept() -> None:
    assert part_size(2 * GiB, 4, Settings(part_size=3 * MiB), 1.0) == 3 * MiB


@pytest.mark.parametrize("size", range(1, 60))
def test_parts_cover_every_byte_once_in_order_and_leave_no_crumbs(size: int) -> None:
    pending = [ByteRange(0, size), ByteRange(size + 3, size + 40)]
    wanted = {*range(size), *range(size + 3, size + 40)}
    parts = []
    while pending:
        parts.append(next_part(pending, 8))
    assert [x for part in parts for x in range(part.start, part.stop)] == sorted(wanted)
    assert all(len(part) <= 10 for part in parts)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([ByteRange(0, 8)], 1, id="one part"),
        pytest.param([ByteRange(0, 10)], 1, id="a rest too short for a request of its own"),
        pytest.param([ByteRange(0, 24)], 3, id="three parts"),
        pytest.param([ByteRange(0, 1), ByteRange(100, 117)], 3, id="gaps"),
    ],
)
def test_parts_are_counted_as_they_are_taken(missing: list[ByteRange], parts: int) -> None:
    before = list(missing)
    assert count_parts(missing, 8) == parts
    assert missing == before


def test_a_task_keeps_no_path_of_its_own_and_a_plan_asks_for_each_once() -> None:
    asked: list[str] = []

    def ask(name: str) -> Path:
        asked.append(name)
        return Path("to", name)

    names = [f"{number:04d}.png" for number in range(3000)]
    requests = [FileRequest(RemoteFile(name, f"https://hub/{name}", 1), Made(name, ask)) for name in names]
    made = make_plan(
        requests, model_id="org/m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 1.0
    )
    assert asked == names
    assert made.files[7].task.local_path == Path("to", "0007.png")
