from __future__ import annotations

import pytest

from hf_haul.config import reminders


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said once in another test may be said in this."""
    monkeypatch.setattr(reminders, "_said", set())
