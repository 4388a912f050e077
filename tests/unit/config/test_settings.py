"""Settings and their variables."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from hf_haul.config import KiB, MiB, Settings, setting_fields


def test_settings_cannot_be_changed_once_made() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().verify = False  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in (
            "max_concurrent_downloads", "initial_connections", "max_concurrent_files_per_model", "chunk_size",
            "min_chunk_size", "connect_timeout", "stall_timeout", "give_up_after", "max_bandwidth_bps",
            "connection_pool_size", "max_connections_per_host", "part_size", "queue_timeout",
        )),
        *((name, -1) for name in ("max_retries", "first_retry_wait", "max_retry_wait", "max_bandwidth_bps")),
        ("disk_check", "maybe"),
        ("sources", ["ftp://lab"]),
        ("write_mode", "backwards"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param("http://me:hf_secret@lab", id="a text"),
        pytest.param(["ftp://me:hf_secret@lab"], id="of another scheme"),
        pytest.param(["me:hf_secret@lab"], id="of none"),
    ],
)
def test_the_passwords_of_sources_are_not_shown_where_those_are_refused(sources: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="sources must be") as caught:
        Settings(sources=sources)
    assert "hf_secret" not in str(caught.value)
    text = sources if isinstance(sources, str) else f"{sources[0]},http://me:hf_secret@other"
    text = text.replace("http://", "gopher://", 1)
    with pytest.raises(ValueError, match="HF_HAUL_SOURCES") as refused:
        Settings.from_environment({"HF_HAUL_SOURCES": text, "HF_HAUL_CONFIG": ""})
    assert "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("tokens", ["hf_secret", ["hf_secret"], {"http://lab": 7}, {7: "hf_secret"}])
def test_what_are_no_tokens_of_sources_is_refused_and_not_shown(tokens: Any) -> None:
    with pytest.raises(TypeError, match="source_tokens must be a dict") as caught:
        Settings(source_tokens=tokens)
    assert "hf_secret" not in str(caught.value)


def test_the_passwords_of_sources_are_not_shown_with_other_settings() -> None:
    assert "hf_secret" not in repr(Settings(sources=("http://me:hf_secret@lab",)))


@pytest.mark.parametrize("field", setting_fields(), ids=lambda field: field.name)
@pytest.mark.parametrize("value", ["8", [8]], ids=["a text", "a list"])
def test_a_value_of_another_type_is_refused_by_name_with_what_is_expected(field: Any, value: Any) -> None:
    if field.name in {"disk_check", "fs_cache", "sources", "write_mode"}:
        with pytest.raises((TypeError, ValueError), match=f"^{field.name} must be"):
            Settings(**{field.name: value})
        return
    wanted = {"bool": "True or False", "int": "a (whole )?number", "float": "a number"}[
        field.type.partition(" ")[0]
    ]
    optional = " or None" if "None" in field.type else ""
    with pytest.raises(TypeError) as caught:
        Settings(**{field.name: value})
    assert re.fullmatch(
        f"{field.name} must be {wanted}{optional}, not {re.escape(repr(value))}", str(caught.value)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_retries", True), ("chunk_size", 1e6), ("stall_timeout", None), ("connection_pool_size", 2.5)],
)
def test_a_number_of_the_wrong_kind_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["max_retries", "first_retry_wait", "max_retry_wait"])
def test_no_retries_and_no_waits_can_be_asked_for(name: str) -> None:
    assert getattr(Settings(**{name: 0}), name) == 0


#: A text for each field, and what it means.
VARIABLES: dict[str, tuple[str, Any]] = {
    "max_concurrent_downloads": ("8", 8),
    "initial_connections": ("2", 2),
    "max_read_connections": ("7", 7),
    "max_concurrent_files_per_model": ("3", 3),
    "max_bandwidth_bps": ("50MB/s", 50_000_000),
    "connection_pool_size": ("9", 9),
    "max_connections_per_host": ("5", 5),
    "chunk_size": ("256KiB", 256 * KiB),
    "min_chunk_size": ("4k", 4000),
    "part_size": ("32MiB", 32 * MiB),
    "enable_resume": ("0", False),
    "enable_adaptive_chunking": ("off", False),
    "enable_compression": ("yes", True),
    "verify": ("FALSE", False),
    "queue_timeout": ("60", 60.0),
    "connect_timeout": ("3.5", 3.5),
    "stall_timeout": ("20", 20.0),
    "first_byte_timeout": ("30", 30.0),
    "give_up_after": ("300", 300.0),
    "max_retries": ("0", 0),
    "first_retry_wait": ("0.1", 0.1),
    "max_retry_wait": ("2", 2.0),
    "durable": ("no", False),
    "disk_check": ("WARN", "warn"),
    "max_listing": ("500", 500),
    "write_mode": ("sequential", "sequential"),
    "fs_cache": ("hub", "hub"),
    "sources": ("http://lab:8000, https://m.test,", ("http://lab:8000", "https://m.test")),
}


def test_this_table_names_every_setting() -> None:
    assert set(VARIABLES) == {field.name for field in setting_fields()}


@pytest.mark.parametrize("name", VARIABLES)
def test_every_setting_can_be_set_by_its_variable(name: str) -> None:
    text, value = VARIABLES[name]
    settings = Settings.from_environment({f"HF_HAUL_{name.upper()}": text})
    assert getattr(settings, name) == value
    assert getattr(Settings(), name) != value, "the example must differ from the default"
    others = [other for other in VARIABLES if other != name]
    assert all(getattr(settings, other) == getattr(Settings(), other) for other in others)


def test_short_names_and_an_unlimited_rate_are_understood() -> None:
    settings = Settings.from_environment({"HF_HAUL_MAX_BANDWIDTH": "none", "HF_HAUL_MAX_CONNECTIONS": "6"})
    assert settings.max_bandwidth_bps is None
    assert settings.max_concurrent_downloads == 6


def test_arguments_win_over_variables_and_none_is_passed_over() -> None:
    environ = {"HF_HAUL_CHUNK_SIZE": "1MiB", "HF_HAUL_MAX_RETRIES": "1"}
    settings = Settings.from_environment(environ, chunk_size=5, max_retries=None)
    assert settings.chunk_size == 5
    assert settings.max_retries == 1


@pytest.mark.parametrize("text", ["0", "unlimited", "none"])
def test_a_text_lifts_a_limit_and_an_empty_one_does_not(text: str) -> None:
    environ = {"HF_HAUL_MAX_BANDWIDTH": "5MB/s"}
    assert Settings.from_environment(environ, max_bandwidth_bps=text).max_bandwidth_bps is None
    assert Settings.from_environment(environ, max_bandwidth_bps="").max_bandwidth_bps == 5_000_000
    assert Settings(max_bandwidth_bps=7).changed(max_bandwidth_bps=text).max_bandwidth_bps is None
    assert Settings(max_bandwidth_bps=7).changed(max_bandwidth_bps="9kB/s").max_bandwidth_bps == 9000


def test_other_variables_and_empty_ones_are_passed_over() -> None:
    environ = {"HF_HAUL_NOVELTY": "1", "HF_HAUL_CHUNK_SIZE": " ", "HF_HOME": "/x", "CHUNK_SIZE": "5"}
    assert Settings.from_environment(environ) == Settings()


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HAUL_DISK_CHECK", "off")
    assert Settings.from_environment().disk_check == "off"


@pytest.mark.parametrize(
    ("name", "text"),
    [("MAX_RETRIES", "many"), ("VERIFY", "perhaps"), ("CHUNK_SIZE", "big"), ("STALL_TIMEOUT", "soon"), ("MAX_BANDWIDTH", "fast")],
)  # fmt: skip
def test_a_variable_that_cannot_be_read_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"HF_HAUL_{name}='{text}'"):
        Settings.from_environment({f"HF_HAUL_{name}": text})


@pytest.mark.parametrize(
    ("environ", "stall", "first_byte", "give_up"),
    [
        pytest.param({}, 10.0, None, 90.0, id="not set"),
        pytest.param({"HF_HUB_DOWNLOAD_TIMEOUT": ""}, 10.0, None, 90.0, id="empty"),
        pytest.param({"HF_HUB_DOWNLOAD_TIMEOUT": "0"}, 10.0, None, 90.0, id="none: the default"),
        pytest.param({"HF_HUB_DOWNLOAD_TIMEOUT": "5"}, 5.0, 5.0, 90.0, id="short"),
        pytest.param({"HF_HUB_DOWNLOAD_TIMEOUT": "120"}, 120.0, 120.0, 240.0, id="long"),
        pytest.param(
            {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HAUL_STALL_TIMEOUT": "7"}, 7.0, 120.0, 240.0, id="a setting of ours"
        ),
        pytest.param(
            {"HF_HAUL_FIRST_BYTE_TIMEOUT": "9", "HF_HAUL_GIVE_UP_AFTER": "50", "HF_HUB_DOWNLOAD_TIMEOUT": "120"},
            120.0, 9.0, 50.0, id="others of ours",
        ),
    ],
)  # fmt: skip
def test_huggingface_hubs_time_out_takes_the_place_of_ours_unless_ours_are_set(
    environ: dict[str, str], stall: float, first_byte: float | None, give_up: float
) -> None:
    settings = Settings.from_environment(environ)
    assert settings.stall_timeout == stall
    assert settings.first_byte_timeout == first_byte
    assert settings.give_up_after == give_up
    assert Settings.from_environment(environ, stall_timeout=3.0).stall_timeout == 3.0


def test_a_time_out_of_huggingface_hubs_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="HF_HUB_DOWNLOAD_TIMEOUT='soon'"):
        Settings.from_environment({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"})
