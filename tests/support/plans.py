"""Plans of files, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from hf_haul.config import Settings
from hf_haul.engine.plan import make_plan
from hf_haul.engine.planned_files import PlannedFiles
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.task import FileRequest

__all__ = ["planned"]


def planned(requests: Sequence[FileRequest] = ()) -> PlannedFiles:
    """Return the files of a plan, in their order."""
    return make_plan(
        requests, model_id="org/m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 1.0
    ).files
