from __future__ import annotations

import pytest

from hf_haul.hub import fallback


def test_a_kept_error_holds_no_frames() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    with pytest.raises(ValueError, match="outer") as caught:
        fail()
    error = caught.value
    fallback.detach_tracebacks(error)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
