"""Which repositories a path holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.cached_files import write

from hf_haul.localhub.discovery import find_repos


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["org/a/x", "org/b/x"], [("model", "org/a"), ("model", "org/b")], id="org and name"),
        pytest.param(
            ["models/o/a/x", "datasets/o/a/x", "spaces/o/a/x", "p/q/x"],
            [("model", "o/a"), ("dataset", "o/a"), ("space", "o/a"), ("model", "p/q")],
            id="below the types",
        ),
        pytest.param(["config.json", "sub/x"], [("model", "up/top")], id="one repository"),
        pytest.param([".hidden", "org/.git/x", ".cache/o/x", "org/a/x"], [("model", "org/a")], id="hidden"),
        pytest.param(
            ["models--o--a/snapshots/1/x", "datasets--squad/snapshots/1/x", "models--o--b/blobs/x"],
            [("model", "o/a"), ("dataset", "squad")],
            id="a cache",
        ),
        pytest.param(
            ["hub/models--o--a/snapshots/1/x", "token"], [("model", "o/a")], id="the home of a cache"
        ),
        pytest.param(["org/only-a-file"], [], id="nothing"),
    ],
)
def test_repositories_are_found_by_their_layout(
    tmp_path: Path, files: list[str], expected: list[tuple[str, str]]
) -> None:
    root = tmp_path / "up" / "top"
    for name in files:
        write(root / name)
    found = find_repos(root, private=True)
    assert sorted(repo.key for repo in found) == sorted(expected)
    assert all(repo.private for repo in found)


def test_a_repository_right_below_the_root_has_a_name_of_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model" / "config.json")
    monkeypatch.setattr(Path, "anchor", f"{tmp_path}/")  # as if /model were served, as in a container
    assert [repo.key for repo in find_repos(tmp_path / "model")] == [("model", "model")]


def test_a_folder_shows_no_hidden_files_and_nothing_that_links_lead_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "served"
    write(root / "org/evil/config.json")
    write(root / "org/evil/.env")
    write(root / "org/evil/.git/config")
    write(root / "org/good/w.bin")
    write(tmp_path / "ssh/id_rsa")
    (root / "org/evil/key").symlink_to(tmp_path / "ssh/id_rsa")
    (root / "org/evil/git").symlink_to(".git/config")
    (root / "org/evil/env").symlink_to(".env")
    (root / "org/evil/inside").symlink_to("../good/w.bin")
    (root / "org/ssh").symlink_to(tmp_path / "ssh")
    (root / "org/same").symlink_to("good")
    repos = {repo.repo_id: repo for repo in find_repos(root)}
    assert repos.keys() == {"org/evil", "org/good", "org/same"}
    assert set(repos["org/evil"].head.tree.files) == {"config.json", "inside"}
    assert set(repos["org/same"].head.tree.files) == {"w.bin"}
    assert caplog.text.count("leads out") == 4
    shown = {repo.repo_id: repo for repo in find_repos(root, hidden=True)}
    assert set(shown["org/evil"].head.tree.files) == {"config.json", "inside", ".env", "env"}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["token", "stored_tokens"], id="two files"),
        pytest.param(["token", "hub/version.txt"], id="beside an empty cache"),
        pytest.param(["stored_tokens", "assets/x"], id="beside other things"),
        pytest.param(["token", "../huggingface/token"], id="by its usual name"),
    ],
)
def test_the_home_of_a_cache_without_repositories_gives_no_tokens_away(
    tmp_path: Path, files: list[str]
) -> None:
    home = tmp_path / "up" / ("huggingface" if "../huggingface/token" in files else "home")
    for name in files:
        write(home / name, b"hf_secret")
    assert find_repos(home) == []
    write(tmp_path / "up/README.md")
    (repo,) = find_repos(tmp_path / "up")
    assert not [path for path in repo.head.tree.files if "token" in path]
