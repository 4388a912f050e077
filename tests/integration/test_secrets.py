"""What only the Hub may see goes to the Hub only, through whichever door the file is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.wire import Connection, Wire, answer

import hf_haul
from hf_haul import cli
from hf_haul.config import Settings
from hf_haul.errors import InvalidUrlError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.faults import Headers
from hf_haul.manager import ParallelDownloadManager

TOKEN = "hf_secret"
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=1, durable=False)
#: Redirects in which one parser or another takes the Hub for the host.
MISREAD = [
    "http://{thief}\\@{hub}/{file}",
    "http://{thief}\t@{hub}/{file}",
    "http://{hub}@{thief}/{file}",
    "http://{thief}#@{hub}/{file}",
    "http://{thief}?@{hub}/{file}",
    "//{thief}\\@{hub}/{file}",
    "/\\{thief}/{file}",
    "///{thief}/{file}",
]
#: Redirects to others that are just that.
ELSEWHERE = ["http://{thief}/{file}", "//{thief}/{file}", "http://localhost:{hub_port}/{file}"]


class Thief:
    """Serves the file to whoever comes, and keeps what they brought."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.wire = Wire(self._serve)
        self.host = f"127.0.0.1:{self.wire.port}"

    def _serve(self, connection: Connection) -> None:
        while connection.request():
            connection.send(answer(self._data))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", weights=10_000, lfs="redirect") as rig:
        yield rig


@pytest.fixture
def thief(rig: Rig) -> Iterator[Thief]:
    thief = Thief(rig.files[WEIGHTS])
    with thief.wire:
        yield thief


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(
        settings=SETTINGS, headers={"Authorization": f"Bearer {TOKEN}", "Cookie": TOKEN}
    ) as manager:
        yield manager


def by_snapshot(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    hf_haul.snapshot_download("org/m", endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path, manager=manager)


def by_file(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    hf_haul.hf_hub_download(
        "org/m", WEIGHTS, endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path, manager=manager
    )


def by_acceleration(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    with hf_haul.accelerate(manager=manager):
        huggingface_hub.hf_hub_download(
            "org/m", WEIGHTS, endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path
        )


def filesystem(rig: Rig, manager: ParallelDownloadManager) -> HaulFileSystem:
    fs = HaulFileSystem(endpoint=rig.hub.url, token=TOKEN, skip_instance_cache=True)
    fs.manager = manager
    return fs


def by_reading(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    filesystem(rig, manager).cat_file(f"org/m/{WEIGHTS}")


def by_getting(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    filesystem(rig, manager).get_file(f"org/m/{WEIGHTS}", str(tmp_path / "got"))


def by_manager(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    task = manager.add_download_task("m", WEIGHTS, rig.url(WEIGHTS), tmp_path / "got")
    manager.wait_for_model_completion(task)


def by_command(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    header = f"Authorization: Bearer {TOKEN}"
    cli.main(["get", rig.url(WEIGHTS), "-o", str(tmp_path / "got"), "-H", header, "-q"])


DOORS: list[Callable[[Rig, ParallelDownloadManager, Path], None]] = [
    by_snapshot, by_file, by_acceleration, by_reading, by_getting, by_manager, by_command,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_redirect_takes_the_token_to_nobody(
    rig: Rig,
    thief: Thief,
    manager: ParallelDownloadManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[Rig, ParallelDownloadManager, Path], None],
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "1")
    monkeypatch.setenv("HF_HAUL_FIRST_RETRY_WAIT", "0.01")
    own, port = rig.hub.url.removeprefix("http://"), rig.hub.url.rpartition(":")[2]
    for number, form in enumerate([*MISREAD, *ELSEWHERE]):
        location = form.format(thief=thief.host, hub=own, hub_port=port, file=WEIGHTS)
        rig.hub.faults.clear()
        rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)
        place = tmp_path / str(number)
        place.mkdir()
        with suppress(OSError, huggingface_hub.errors.HfHubHTTPError):
            door(rig, manager, place)
    assert any("bearer" in (record.token or "").lower() for record in rig.hub.requests), "it had been sent"
    assert thief.wire.heads
    assert [head for head in thief.wire.heads if TOKEN in head] == []
    with_token = [record for record in rig.hub.requests if TOKEN in repr(record.headers)]
    assert {record.headers["host"] for record in with_token} == {own}


@pytest.mark.parametrize("form", MISREAD[:3])
def test_a_redirect_that_could_be_misread_fails_its_file_only(rig: Rig, thief: Thief, form: str) -> None:
    own = rig.hub.url.removeprefix("http://")
    location = form.format(thief=thief.host, hub=own, file=WEIGHTS)
    rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)
    errors = rig.fetch(WEIGHTS, SMALL).errors
    assert list(errors) == [WEIGHTS]
    assert isinstance(errors[WEIGHTS], InvalidUrlError)
    assert thief.wire.heads == []
    assert rig.is_whole(SMALL)
