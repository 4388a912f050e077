"""A Hub cache and a ``local_dir`` to put files into, and owners that are dead."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_haul.storage import adoption, left_file
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder


@pytest.fixture
def folder(tmp_path: Path) -> RepoFolder:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name")
    folder.prepare()
    return folder


@pytest.fixture
def local(tmp_path: Path) -> LocalFolder:
    return LocalFolder(str(tmp_path / "local"))


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every owner but a new one is dead, as after a kill."""
    monkeypatch.setattr(left_file, "owner_status", lambda *_args, **_more: "dead")
    monkeypatch.setattr(adoption, "is_running", lambda _pid: False)
