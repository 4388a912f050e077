"""Pictures and sound through haul://: PIL and soundfile on open files, beside the same files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from tests.support.wants import want_modules

want_modules("PIL", "soundfile", extra="loaders")

import soundfile  # noqa: E402  if it is there
from PIL import Image  # noqa: E402  the same


@pytest.fixture(scope="module")
def pixels() -> Any:
    y, x = np.mgrid[:600, :800]
    noise = np.random.default_rng(5).integers(0, 40, (600, 800))
    return np.stack([x % 256, y % 256, noise], axis=-1).astype("uint8")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_pictures_are_opened_and_decoded(serve: Any, tmp_path: Path, pixels: Any, name: str) -> None:
    (tmp_path / "made").mkdir()
    Image.fromarray(pixels).save(tmp_path / "made" / name)
    here = serve(tmp_path / "made")
    with fsspec.open(here.url(name)) as file, Image.open(file) as picture:
        assert picture.size == (800, 600)
        found = np.asarray(picture)
    with Image.open(here.local(name)) as truth:
        assert np.array_equal(found, np.asarray(truth))
    assert here.sent(name) <= here.size(name)
    assert here.resolves(name) == 1


def test_a_folder_of_pictures_is_read_at_once(serve: Any, tmp_path: Path, pixels: Any) -> None:
    (tmp_path / "made/many").mkdir(parents=True)
    for number in range(30):
        Image.fromarray(pixels[number : number + 64, :64]).save(tmp_path / f"made/many/{number:02d}.png")
    here = serve(tmp_path / "made")
    fs = fsspec.filesystem("haul")
    found = fs.cat(here.path("many/*.png"))
    assert found == {
        here.path(f"many/{path.name}"): path.read_bytes() for path in (tmp_path / "made/many").iterdir()
    }
    assert len(here.answers("many/*")) == 30


@pytest.fixture(scope="module")
def tone() -> Any:
    at = np.arange(44_100 * 4) / 44_100
    return np.stack([np.sin(2 * np.pi * 440 * at), np.sin(2 * np.pi * 660 * at)], axis=-1) * 0.5


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_sound_is_read_whole_and_in_slices(serve: Any, tmp_path: Path, tone: Any, name: str) -> None:
    (tmp_path / "made").mkdir()
    soundfile.write(tmp_path / "made" / name, tone, 44_100)
    here = serve(tmp_path / "made")
    with fsspec.open(here.url(name)) as file:
        found, rate = soundfile.read(file)
    truth, _ = soundfile.read(here.local(name))
    assert rate == 44_100
    assert np.array_equal(found, truth)
    with fsspec.open(here.url(name)) as file, soundfile.SoundFile(file) as sound:
        sound.seek(44_100 * 3)
        slice_ = sound.read(4_410)
    with soundfile.SoundFile(here.local(name)) as sound:
        sound.seek(44_100 * 3)
        assert np.array_equal(slice_, sound.read(4_410))
    assert here.sent(name) <= 1.1 * here.size(name)
    assert here.resolves(name) == 1
