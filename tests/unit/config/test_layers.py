"""Which value of a setting counts, and what is said of names that mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.test_settings import VARIABLES

from hf_haul.config import MiB, Settings, reminders, settings_in_force


def _file(folder: Path, text: str) -> dict[str, str]:
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return {"HF_HAUL_CONFIG": str(path)}


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return repr(list(value))
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.mark.parametrize("name", VARIABLES)
def test_every_setting_can_be_set_in_the_file_by_its_name(name: str, tmp_path: Path) -> None:
    text, value = VARIABLES[name]
    for written in (repr(text), _toml(value)):
        settings = Settings.from_environment(_file(tmp_path, f"{name} = {written}\n"))
        assert getattr(settings, name) == value
        others = [other for other in VARIABLES if other != name]
        assert all(getattr(settings, other) == getattr(Settings(), other) for other in others)


def test_the_environment_wins_over_the_file_and_arguments_over_both(tmp_path: Path) -> None:
    environ = _file(tmp_path, "max_retries = 1\nchunk_size = '2MiB'\nstall_timeout = 20\n")
    environ["HF_HAUL_CHUNK_SIZE"] = "3MiB"
    environ["HF_HAUL_STALL_TIMEOUT"] = "30"
    settings = Settings.from_environment(environ, stall_timeout=40.0)
    assert (settings.max_retries, settings.chunk_size, settings.stall_timeout) == (1, 3 * MiB, 40.0)


def test_short_names_are_understood_in_the_file_too(tmp_path: Path) -> None:
    environ = _file(tmp_path, "max_bandwidth = '5MB/s'\nmax_connections = 6\n")
    settings = Settings.from_environment(environ)
    assert (settings.max_bandwidth_bps, settings.max_concurrent_downloads) == (5_000_000, 6)


@pytest.mark.parametrize(("written", "rate"), [("0", None), ("'unlimited'", None), ("1500", 1500)])
def test_a_rate_that_is_a_number_in_the_file_is_read_like_a_text(
    written: str, rate: int | None, tmp_path: Path
) -> None:
    assert (
        Settings.from_environment(_file(tmp_path, f"max_bandwidth = {written}\n")).max_bandwidth_bps == rate
    )
    with pytest.raises(ValueError, match=r"max_bandwidth = 50: rate '50' has no unit"):
        Settings.from_environment(_file(tmp_path, "max_bandwidth = 50\n"))


def test_a_variable_lifts_what_the_file_sets(tmp_path: Path) -> None:
    environ = _file(tmp_path, "max_bandwidth = '5MB/s'\nqueue_timeout = 60\npart_size = '8MiB'\n")
    environ |= {"HF_HAUL_MAX_BANDWIDTH": "0", "HF_HAUL_QUEUE_TIMEOUT": "none", "HF_HAUL_PART_SIZE": "None"}
    settings = Settings.from_environment(environ)
    assert (settings.max_bandwidth_bps, settings.queue_timeout, settings.part_size) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_retries = 'many'", "max_retries = 'many': must be a whole number"),
        ("max_retries = -1", "max_retries = -1: max_retries must be 0 or more, not -1"),
        ("max_retries = true", "max_retries = True: must be a whole number"),
        ("max_retries = [1]", "max_retries = [1]: write a text, a number, true or false"),
        ("verify = 2", "verify = 2: write 1 or 0"),
        ("disk_check = 'maybe'", "disk_check = 'maybe': disk_check must be strict, warn or off"),
        ("verify = 2020-01-01", "write a text, a number, true or false"),
        ("chunk_size = 'none'", "chunk_size = 'none': not a size"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="configuration file") as caught:
        Settings.from_environment(_file(tmp_path, text))
    assert str(tmp_path / "c.toml") in str(caught.value)
    assert said in str(caught.value)


def test_a_value_of_a_variable_that_cannot_work_is_named_with_the_variable() -> None:
    with pytest.raises(
        ValueError, match="environment variable HF_HAUL_MAX_RETRIES='-1': max_retries must be"
    ):
        Settings.from_environment({"HF_HAUL_MAX_RETRIES": "-1"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HF_HAUL_MAX_CONECTIONS", "HF_HAUL_MAX_CONNECTIONS"),
        ("HF_HAUL_MAX_BANDWITH", "HF_HAUL_MAX_BANDWIDTH"),
        ("HF_HAUL_STALL_TIME_OUT", "HF_HAUL_STALL_TIMEOUT"),
        ("HF_HAUL_RETRIES", "HF_HAUL_MAX_RETRIES"),
        ("HF_HAUL_VERIFIED", "HF_HAUL_VERIFY"),
    ],
)
def test_a_misspelt_variable_is_warned_about_once_with_the_nearest_name(
    variable: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert Settings.from_environment({variable: "1"}) == Settings()
    assert [record.getMessage() for record in caplog.records] == [
        f"{variable} is no setting of hf-haul and has no effect; did you mean {meant}?"
    ]


def test_a_variable_like_none_is_warned_about_too(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_environment({"HF_HAUL_XYZZY": "1"})
    assert "HF_HAUL_XYZZY is no setting of hf-haul and has no effect; 'hf-haul env' lists" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_conections = 3", "max_conections is no setting of hf-haul and has no effect; did you mean max_connections?"),
        ("max-retries = 3", "did you mean max_retries?"),
        ("HF_HAUL_MAX_RETRIES = 3", "did you mean max_retries?"),
        ("[verify]\nx = 1", "[verify] is no setting"),
        ("[tokens]\nx = 'hf_secret'", "[tokens] is no setting"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_warned_about_once_with_the_nearest_name(
    text: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = _file(tmp_path, text)
    for _ in range(3):
        assert Settings.from_environment(environ) == Settings()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path / 'c.toml'}: ")
    assert said in message
    assert "hf_secret" not in message


def test_a_variable_lifts_the_sources_of_the_file(tmp_path: Path) -> None:
    environ = _file(tmp_path, "sources = ['http://lab']\n") | {"HF_HAUL_SOURCES": "none"}
    assert Settings.from_environment(environ).sources == ()


def test_the_file_has_the_tokens_of_sources_and_nothing_shows_them(tmp_path: Path) -> None:
    environ = _file(tmp_path, "[source_tokens]\n'http://lab:8000' = 'hf_secret'\n")
    settings = Settings.from_environment(environ)
    assert settings.source_tokens == {"http://lab:8000": "hf_secret"}
    assert "hf_secret" not in repr(settings)
    assert "source_tokens" not in settings_in_force(environ).origins


@pytest.mark.parametrize("line", ["lab = 'hf_secret'", "'http://lab' = 7", "'http://lab' = ['hf_secret']"])
def test_a_token_that_cannot_be_read_is_named_with_its_file_and_not_shown(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[source_tokens\]: write") as caught:
        Settings.from_environment(_file(tmp_path, f"[source_tokens]\n{line}\n"))
    assert "hf_secret" not in str(caught.value)


def test_a_name_that_is_known_is_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environ = _file(tmp_path, "".join(f"{name} = {text!r}\n" for name, (text, _) in VARIABLES.items()))
    environ |= {f"HF_HAUL_{name.upper()}": text for name, (text, _) in VARIABLES.items()}
    environ |= {"HF_HAUL_NO_SKIP": "1", "HF_HAUL_SERVE_TOKEN": "t", "HF_HOME": "/x", "HF_HAULAGE": "1"}
    Settings.from_environment(environ)
    assert caplog.text == ""


def test_a_program_that_makes_names_up_is_told_of_a_bounded_number(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_environment({f"HF_HAUL_NAME_{number}": "1" for number in range(1000)})
    assert len(caplog.records) == reminders._MOST


def test_huggingface_hubs_time_out_is_of_the_environment_and_wins_over_the_file(tmp_path: Path) -> None:
    environ = _file(tmp_path, "stall_timeout = 20\ngive_up_after = 500\n")
    settings = Settings.from_environment({**environ, "HF_HUB_DOWNLOAD_TIMEOUT": "120"})
    assert (settings.stall_timeout, settings.first_byte_timeout, settings.give_up_after) == (120, 120, 500)
    environ = _file(tmp_path, "give_up_after = 30\n")
    assert Settings.from_environment({**environ, "HF_HUB_DOWNLOAD_TIMEOUT": "120"}).give_up_after == 240


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    environ = _file(tmp_path, "max_retries = 1\nmax_connections = 9\nverify = false\n")
    environ |= {"HF_HAUL_MAX_RETRIES": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    found = settings_in_force(environ)
    said = {name: str(origin) for name, origin in found.origins.items()}
    assert found.settings == Settings.from_environment(environ)
    assert said["max_retries"] == "HF_HAUL_MAX_RETRIES"
    assert said["max_concurrent_downloads"] == f"{tmp_path / 'c.toml'}: max_connections"
    assert said["verify"] == f"{tmp_path / 'c.toml'}: verify"
    assert said["stall_timeout"] == said["give_up_after"] == "HF_HUB_DOWNLOAD_TIMEOUT"
    assert said["durable"] == "default"
    assert found.file.path == tmp_path / "c.toml"
