from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.support.hub_answers import Waits

from hf_haul.hub import asking


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=waits))  # not the sleep of other threads
    return waits
