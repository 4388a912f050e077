"""What of a folder is given out, and what a link in it leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_haul.localhub.confinement import Confinement, is_shown, open_regular


@pytest.mark.parametrize(
    ("path", "shown", "shown_with_hidden"),
    [
        pytest.param("a.txt", True, True, id="plain"),
        pytest.param("sub/a.txt", True, True, id="in a folder"),
        pytest.param(".gitattributes", True, True, id="git's own"),
        pytest.param("sub/.gitkeep", True, True, id="git's own, in a folder"),
        pytest.param(".gitignore/x", False, True, id="a folder called like git's own"),
        pytest.param(".env", False, True, id="hidden"),
        pytest.param(".github/workflows/x.yml", False, True, id="in a hidden folder"),
        pytest.param(".git/config", False, False, id="git"),
        pytest.param("sub/.git/config", False, False, id="git of a submodule"),
        pytest.param("sub/.GIT/config", False, False, id="git where names have no case"),
        pytest.param(".git", False, False, id="git of a worktree"),
        pytest.param(".cache/huggingface/token", False, False, id="notes of downloads"),
        pytest.param(".cache/other", False, True, id="another cache"),
        pytest.param("huggingface/token", False, False, id="the user's token"),
        pytest.param("caches/huggingface/stored_tokens", False, False, id="the user's tokens"),
        pytest.param("token", True, True, id="a file called token"),
        pytest.param("w.bin.incomplete", False, False, id="unfinished"),
        pytest.param("__pycache__/x.pyc", False, False, id="left by Python"),
        pytest.param("", False, False, id="the folder itself"),
    ],
)
def test_names_that_begin_with_a_dot_are_shown_if_git_uses_them(
    path: str, shown: bool, shown_with_hidden: bool
) -> None:
    parts = Path(path).parts
    assert is_shown(parts) is shown
    assert is_shown(parts, hidden=True) is shown_with_hidden


@pytest.fixture
def served(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    for name in ("served/a.txt", "served/sub/b.txt", "served/.git/config", "served/.env", "outside.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "served-too").mkdir()
    (tmp_path / "served-too/c.txt").write_text("a name that begins alike")
    return served


@pytest.mark.parametrize(
    ("target", "held"),
    [
        pytest.param("a.txt", True, id="beside it"),
        pytest.param("sub/b.txt", True, id="below"),
        pytest.param("../served/a.txt", True, id="out and in again"),
        pytest.param("../outside.txt", False, id="out"),
        pytest.param("../served-too/c.txt", False, id="into a folder whose name begins alike"),
        pytest.param(".git/config", False, id="to what git keeps"),
        pytest.param(".env", False, id="to a hidden file"),
        pytest.param("nowhere", False, id="nowhere"),
        pytest.param("link", False, id="to itself"),
    ],
)
def test_a_link_counts_by_what_it_leads_to(served: Path, target: str, held: bool) -> None:
    link = served / "link"
    link.symlink_to(target)
    confinement = Confinement([served])
    assert confinement.holds(link) is held
    if held:
        with open_regular(link, confinement) as file:
            assert file.read()
    else:
        with pytest.raises(OSError):
            open_regular(link, confinement)


def test_a_folder_replaced_by_a_link_gives_nothing_away(served: Path, tmp_path: Path) -> None:
    """The path was looked at; then somebody put a link in the place of a folder in it."""
    confinement, path = Confinement([served]), served / "sub/b.txt"
    assert confinement.holds(path)
    (served / "sub").rename(tmp_path / "sub")
    (served / "sub").symlink_to(tmp_path / "sub")
    with pytest.raises(PermissionError, match="outside"):
        open_regular(path, confinement)


def test_without_proc_a_file_is_looked_up_once_more(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "freebsd14")
    confinement = Confinement([served])
    open_regular(served / "a.txt", confinement).close()
    (served / "link").symlink_to("../outside.txt")
    with pytest.raises(PermissionError, match="outside"):
        open_regular(served / "link", confinement)
    real = os.path.realpath

    def swapped(path: str, *, strict: bool) -> str:
        return real(served / "sub/b.txt" if Path(path).name == "link" else path, strict=strict)

    monkeypatch.setattr("os.path.realpath", swapped)
    with pytest.raises(PermissionError, match="replaced"):
        open_regular(served / "link", confinement)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
def test_nothing_but_regular_files_is_opened_and_a_fifo_is_not_waited_for(served: Path) -> None:
    os.mkfifo(served / "fifo")
    for name in ("fifo", "sub"):
        with pytest.raises(OSError):
            open_regular(served / name)
