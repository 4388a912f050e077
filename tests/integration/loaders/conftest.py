"""A Hub of its own for each test, at which plain haul:// URLs lead, in this process and in those it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.support.loader_files import make_loader_files

from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.requestlog import RequestRecord

#: What loaders say of each other is none of our business; what is said of our modules, and what is lost in threads and
#: finalizers, is.
_WARNINGS = (
    "default",
    "error:::hf_haul",
    "error::pytest.PytestUnraisableExceptionWarning",
    "error::pytest.PytestUnhandledThreadExceptionWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the time of the tests in this folder, and choose their warnings."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(60))
            item.add_marker(pytest.mark.filterwarnings(*_WARNINGS))


@dataclass
class Here:
    """Files at a Hub and the same files on disk.

    Attributes:
        hub: The Hub.
        folder: The files: the truth.
        repo_id: The dataset's name.
    """

    hub: LocalHub
    folder: Path
    repo_id: str

    def url(self, name: str = "", protocol: str = "haul") -> str:
        """A file of the repository as a URL."""
        return f"{protocol}://datasets/{self.repo_id}/{name}".rstrip("/")

    def path(self, name: str) -> str:
        """A file of the repository for the filesystem."""
        return f"datasets/{self.repo_id}/{name}"

    def local(self, name: str) -> str:
        """The same file on disk."""
        return str(self.folder / name)

    def size(self, name: str) -> int:
        """Its bytes."""
        return (self.folder / name).stat().st_size

    # ---- what it cost

    def answers(self, path: str = "*") -> list[RequestRecord]:
        """The requests that were answered with bytes of files, once none is under way any more."""
        assert self.hub.requests.settle()
        return [
            each
            for kind in ("resolve", "resolve-cache", "cdn")
            for each in self.hub.requests.of(kind, path)
            if each.status in {200, 206}
        ]

    def sent(self, path: str = "*") -> int:
        """Bytes of files that were sent."""
        return sum(each.body_bytes for each in self.answers(path))

    def resolves(self, path: str = "*") -> int:
        """Questions where a file's bytes are."""
        return len(self.hub.requests.of("resolve", path))

    def listings(self) -> int:
        """Questions about the repository and its files."""
        return sum(len(self.hub.requests.of(kind)) for kind in ("info", "tree", "paths-info"))


@pytest.fixture(scope="session")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_loader_files(tmp_path_factory.mktemp("loaders"))


@pytest.fixture(scope="session")
def _repo(_files: Path) -> Repo:
    return Repo.from_folder(_files, "org/loaders", "dataset")


def _serve(repo: Repo, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Here]:
    with LocalHub(repo) as hub:
        patch.setenv("HF_ENDPOINT", hub.url)  # for processes that are started
        template = "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        HaulFileSystem.clear_instance_cache()
        yield Here(hub, folder, repo.repo_id)
        HaulFileSystem.clear_instance_cache()


@pytest.fixture
def here(_repo: Repo, _files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """The files of `make_loader_files`, at a Hub that nobody has asked anything yet."""
    yield from _serve(_repo, _files, monkeypatch)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve the files that a test puts into a folder: call it with that folder."""
    running: list[Iterator[Here]] = []

    def start(folder: Path) -> Here:
        running.append(
            _serve(Repo.from_folder(folder, "org/made", "dataset", hidden=True), folder, monkeypatch)
        )
        return next(running[-1])

    yield start
    for each in running:
        next(each, None)
