"""Where ``hf-haul get`` puts a file, and what it shows."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import tqdm

from hf_haul.cli import command as cli
from hf_haul.cli import get


@pytest.mark.parametrize(
    ("url", "output", "target"),
    [
        pytest.param("https://h/x/a.bin", None, "a.bin", id="the last name"),
        pytest.param("https://h/x/a%20b.bin?sig=1#f", None, "a b.bin", id="decoded, without query"),
        pytest.param("https://h/", "given.bin", "given.bin", id="given"),
        pytest.param("https://h/a.bin", "new/", "new/a.bin", id="a folder to be made"),
        pytest.param("https://h/a.bin", ".", "a.bin", id="a folder that is there"),
    ],
)
def test_a_urls_file_goes_where_one_expects(
    url: str, output: str | None, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert get._target(url, output) == Path(target)


@pytest.mark.parametrize("name", ["", "..", "%2e%2e", "..%2F..%2Fetc%2Fpasswd", "a%5Cb", "%2Fetc%2Fpasswd"])
def test_a_url_cannot_choose_a_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["get", f"https://user:secret@h/x/{name}?sig=secret"]) == 2
    err = capsys.readouterr().err
    assert "say with -o what to call it" in err
    assert "secret" not in err


def test_what_an_earlier_get_left_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Shown(tqdm.tqdm):  # type: ignore[type-arg]  # no subscripts at run time
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": False})
            bars.append(self)

    seen = [
        types.SimpleNamespace(bytes_total=100, bytes_done=done, bytes_transferred=transferred)
        for done, transferred in ((0, 0), (70, 10), (100, 40))
    ]
    handle = types.SimpleNamespace(wait=lambda _: len(seen) == 1, progress=lambda: seen.pop(0))
    monkeypatch.setattr(tqdm, "tqdm", Shown)
    get._watch(handle, "a.bin", quiet=False)
    (bar,) = bars
    assert (bar.n, bar.initial, bar.total) == (100, 60, 100)
