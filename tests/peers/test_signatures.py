"""Whoever can call huggingface_hub's functions can call ours in the same way."""

from __future__ import annotations

import inspect
from typing import Any

import huggingface_hub
import pytest

import hf_haul

NAMES = ("snapshot_download", "hf_hub_download")
EXTRAS = {
    "snapshot_download": {
        "priority", "max_bandwidth", "max_connections", "verify", "progress_callback", "manager", "presets",
        "on_event", "sources",
    },
    "hf_hub_download": {
        "priority", "max_bandwidth", "max_connections", "verify", "progress_callback", "manager",
        "on_event", "sources",
    },
}  # fmt: skip


def parameters(module: Any, name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(module, name)).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_upstreams_is_ours_with_its_kind_and_default(name: str) -> None:
    ours = parameters(hf_haul, name)
    for parameter in parameters(huggingface_hub, name).values():
        assert ours[parameter.name].kind is parameter.kind, parameter.name
        assert ours[parameter.name].default == parameter.default, parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_what_we_add_is_keyword_only_optional_and_known(name: str) -> None:
    ours = parameters(hf_haul, name)
    added = {k: p for k, p in ours.items() if k not in parameters(huggingface_hub, name)}
    assert set(added) == EXTRAS[name]
    for parameter in added.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described(name: str) -> None:
    text = inspect.getdoc(getattr(hf_haul, name)) or ""
    for parameter in parameters(hf_haul, name):
        assert f"\n    {parameter}: " in text, parameter
