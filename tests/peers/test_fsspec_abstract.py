"""fsspec's own tests of filesystems, all of them."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator
from typing import Any

import fsspec.tests.abstract as abstract
import pytest
from tests.support.writing import WritingApi

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo
from hf_haul.manager import ParallelDownloadManager

_numbers = itertools.count()


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub(Repo("org/none"), lfs="direct") as hub:
        yield hub


@pytest.fixture(scope="module")
def manager() -> Iterator[ParallelDownloadManager]:
    settings = Settings(first_retry_wait=0.01, max_retries=1, durable=False)
    with ParallelDownloadManager(settings=settings) as manager:
        yield manager


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, hub: LocalHub, manager: ParallelDownloadManager) -> HaulFileSystem:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        fs._api = WritingApi(hub)
        return fs

    @pytest.fixture
    def fs_path(self, fs: HaulFileSystem, hub: LocalHub) -> str:
        repo = Repo(f"org/repo{next(_numbers)}", "dataset")
        repo.commit({".gitattributes": b""}, "first")
        hub.add(repo)
        fs._api.repos[repo.repo_id] = repo
        return f"datasets/{repo.repo_id}"

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: posixpath.join(*map(str, parts))

    @pytest.fixture
    def fs_sanitize_path(self) -> Any:
        return HaulFileSystem._strip_protocol

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


if hasattr(abstract, "AbstractPipeTests"):  # since fsspec 2024.9

    class TestPipe(abstract.AbstractPipeTests, Fixtures):
        pass

    class TestOpen(abstract.AbstractOpenTests, Fixtures):
        pass
