"""Which value of a setting counts: of the environment before the file, of the file before the default.

Knows nothing of what is set: names and types are those of the fields it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hf_haul.config.file import ConfigFile
from hf_haul.config.quantities import parse_rate, parse_size
from hf_haul.config.reminders import nearest, remind
from hf_haul.config.variables import OTHER_VARIABLES, PREFIX
from hf_haul.urls import redact

__all__ = [
    "SHORT_NAMES",
    "SOURCE_TOKENS",
    "SetValue",
    "SettingSource",
    "source_tokens_in_file",
    "values_in_environment",
    "values_in_file",
]

#: Names that people expect, and the settings they stand for.
SHORT_NAMES: Final = {
    "max_bandwidth": "max_bandwidth_bps",
    "max_connections": "max_concurrent_downloads",
}
#: The setting that has the tokens of sources, and the table of the file that has them.
SOURCE_TOKENS: Final = "source_tokens"
#: Tables of the file that mean something.
_TABLES: Final = frozenset({SOURCE_TOKENS})


@dataclass(frozen=True, slots=True)
class SettingSource:
    """Where a value comes from.

    Attributes:
        kind: ``default``, ``file`` or ``environment``.
        name: The key in the file, or the variable.
        file: The file.
    """

    kind: Literal["default", "file", "environment"] = "default"
    name: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.kind == "file" else self.name or self.kind


@dataclass(frozen=True, slots=True)
class SetValue:
    """A value, and where it comes from."""

    value: Any
    origin: SettingSource


def values_in_environment(
    environ: Mapping[str, str], types: Mapping[str, str], check: Callable[[str, Any], None]
) -> dict[str, SetValue]:
    """Return what ``HF_HAUL_*`` variables set; warn once of each that sets nothing.

    Args:
        environ: The variables.
        types: The annotation of each setting, by name.
        check: Raises ``ValueError`` where a setting cannot have a value.

    Raises:
        ValueError: A value is unusable; the message names the variable.
    """
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        name = variable.removeprefix(PREFIX).lower()
        name = SHORT_NAMES.get(name, name)
        if name not in types:
            _remind_of_name(variable, name, types, lambda known: PREFIX + known.upper())
        elif text.strip():
            try:
                value = _read(name, types[name], text)
                check(name, value)
            except ValueError as error:
                shown = _shown(text, types[name])
                raise ValueError(f"environment variable {variable}={shown!r}: {error}") from error
            found[name] = SetValue(value, SettingSource("environment", variable))
    return found


def _shown(value: Any, kind: str) -> Any:
    """Return a value fit to be shown: URLs, the only lists there are, may hold a password."""
    if kind.startswith("tuple") and isinstance(value, str):
        return ",".join(map(redact, value.split(",")))
    return value


def values_in_file(
    file: ConfigFile, types: Mapping[str, str], check: Callable[[str, Any], None]
) -> dict[str, SetValue]:
    """Return what the configuration file sets; warn once of each key that sets nothing.

    Args:
        file: The file.
        types: The annotation of each setting, by name.
        check: Raises ``ValueError`` where a setting cannot have a value.

    Raises:
        ValueError: A value is unusable; the message names file and key.
    """
    found = {}
    for key, value in file.values.items():
        name = SHORT_NAMES.get(key, key)
        if name not in types:
            _remind_of_name(f"{file.path}: {key}", key, types, str)
            continue
        try:
            if types[name].startswith("tuple") and isinstance(value, list):
                value = ",".join(map(str, value))  # noqa: PLW2901  a list is written so in a variable
            if not isinstance(value, (str, bool, int, float)):
                raise ValueError("write a text, a number, true or false")  # noqa: TRY004  as of all that is wrong here
            # Whatever people write is read alike: 50 is as little a rate here as in a variable.
            read = _read(name, types[name], str(value))
            check(name, read)
        except ValueError as error:
            shown = _shown(value, types[name])
            raise ValueError(f"configuration file {file.path}, {key} = {shown!r}: {error}") from error
        found[name] = SetValue(read, SettingSource("file", key, file.path))
    for table in file.tables:
        if table not in _TABLES:
            _remind_of_name(f"{file.path}: [{table}]", table, types, str)
    return found


def source_tokens_in_file(file: ConfigFile) -> dict[str, SetValue]:
    """Return the tokens of sources, where the configuration file has any.

    Raises:
        ValueError: One is no text, or is not for a URL; the message does not show it.
    """
    tokens = file.tables.get(SOURCE_TOKENS, {})
    for url, token in tokens.items():
        if not isinstance(token, str) or not url.startswith(("http://", "https://")):
            raise ValueError(
                f'configuration file {file.path}, [{SOURCE_TOKENS}]: write "http://host:port" = "the token", not {url!r} = ...'
            )
    if not tokens:
        return {}
    return {SOURCE_TOKENS: SetValue(dict(tokens), SettingSource("file", SOURCE_TOKENS, file.path))}


def _remind_of_name(
    written: str, name: str, types: Mapping[str, str], shown_as: Callable[[str], str]
) -> None:
    likely = name.lower().replace("-", "_").removeprefix(PREFIX.lower())
    known = nearest(likely, [*types, *SHORT_NAMES])
    advice = "'hf-haul env' lists the settings" if known is None else f"did you mean {shown_as(known)}?"
    remind(("name", written), "%s is no setting of hf-haul and has no effect; %s", written, advice)


def _read(name: str, annotation: str, text: str) -> Any:
    """Return what a text means for a setting."""
    if name == "max_bandwidth_bps":
        return parse_rate(text)
    lowered = text.strip().lower()
    if lowered == "none" and "None" in annotation:
        return None
    if name.endswith("_size") and name != "connection_pool_size":
        return parse_size(text)
    if annotation.startswith("tuple"):
        return () if lowered == "none" else tuple(each.strip() for each in text.split(",") if each.strip())
    if annotation.startswith("bool"):
        return _read_bool(lowered)
    for start, kind, what in (("int", int, "a whole number"), ("float", float, "a number")):
        if annotation.startswith(start):
            try:
                return kind(text)
            except ValueError:
                raise ValueError(f"must be {what}") from None
    return lowered


def _read_bool(text: str) -> bool:
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise ValueError("write 1 or 0")
