from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from hf_haul.storage.staged_names import private_name


@pytest.mark.usefixtures("dead")
def test_a_private_name_is_never_one_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process's id leaves ten bits to chance, and a rename would replace what another thread of it staged."""
    chance = iter([5 << 22, 5 << 22, 6 << 22, 6 << 22, 7 << 22])
    monkeypatch.setattr(secrets, "randbits", lambda bits: next(chance) if bits == 32 else 0)
    names = []
    for kind in (".haul.incomplete", ".haul.incomplete", ".sealed.incomplete"):
        path = private_name(tmp_path, "etag", kind)
        path.touch()
        names.append(path.name)
    assert len(set(names)) == 3
