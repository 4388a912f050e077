"""A Hub that says when to ask again is not asked before, whichever of its answers says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, serve_repo

from hf_haul.hub import asking
from hf_haul.hub.planning import plan
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub.testing.faults import Status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source")) as served:
        yield served


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        pytest.param(lambda **o: snapshot_download("org/tiny", **o), "info", id="snapshot, its commit"),
        pytest.param(lambda **o: snapshot_download("org/tiny", **o), "tree", id="snapshot, its listing"),
        pytest.param(lambda **o: hf_hub_download("org/tiny", "config.json", **o), "resolve", id="one file"),
        pytest.param(lambda **o: plan("org/tiny", **o), "info", id="plan, its commit"),
    ],
)
@pytest.mark.parametrize(("status", "seconds"), [(429, 57.0), (503, 9.0)])
def test_nothing_is_asked_between_a_refusal_and_the_time_that_it_names(
    served: ServedRepo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[..., Any],
    kind: str,
    status: int,
    seconds: float,
) -> None:
    served.hub.requests.clear()
    served.hub.faults.add(Status(status, retry_after=int(seconds)), kind=kind, times=1)
    waited: list[tuple[float, int | None]] = []

    def pause(seconds: float, _token: object) -> None:
        last = [request.status for request in served.hub.requests][-1]
        waited.append((seconds, last))

    monkeypatch.setattr(asking, "_pause", pause)
    ask(cache_dir=str(tmp_path / "cache"), endpoint=served.hub.url)
    assert waited == [(seconds, status)], "the refused request was the last before the wait"
    assert [request.status for request in served.hub.requests].count(status) == 1
