"""Frozen settings, their defaults and reasons."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

from hf_haul.config.file import ConfigFile, read_config
from hf_haul.config.layers import (
    SOURCE_TOKENS,
    SettingSource,
    SetValue,
    source_tokens_in_file,
    values_in_environment,
    values_in_file,
)
from hf_haul.config.quantities import KiB, MiB, parse_rate, require_number
from hf_haul.config.timings import DEFAULT_TIMINGS, Timings
from hf_haul.urls import redact

__all__ = [
    "DiskCheck",
    "FsCache",
    "Settings",
    "SettingsInForce",
    "WriteMode",
    "setting_fields",
    "settings_in_force",
]

_UPSTREAM_TIMEOUT: Final = "HF_HUB_DOWNLOAD_TIMEOUT"

#: Fields that have no variable.
_UNSET: Final = frozenset({"timings", SOURCE_TOKENS})

DiskCheck = Literal["strict", "warn", "off"]
WriteMode = Literal["auto", "offset", "sequential"]
FsCache = Literal["memory", "hub"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the engine behaves. Every field has a default that suits an unknown network.

    Attributes:
        max_concurrent_downloads: Connections in use at once, at the most. 64, because many small files far
            away are bound by round trips. The adaptive limit reaches it only where each step earns its place.
        initial_connections: Connections per source to start with. 4: a link of 25 Gb/s was seen to hold with
            4 and to collapse with 6, so growth has to be earned.
        max_read_connections: Connections that reads into memory use at once, at the most, those that wait for
            an answer included. 64: small files and ranges are bound by round trips; of those that are bound
            by bytes, no more than 16 are in use.
        max_concurrent_files_per_model: Staged files open at once in one queue; bounds open file descriptors.
            64: as many as connections, which small files need one each of.
        max_bandwidth_bps: Limit over all connections in bytes per second; ``None`` for none.
        connection_pool_size: Connections open at once, idle ones included. ``None``: as many as downloads and
            reads together.
        max_connections_per_host: The same per host. ``None``: as many as in all.
        chunk_size: Largest read in bytes. 1 MiB: below it system calls cost more, above it caches do; and a
            killed process loses at most one read per connection.
        min_chunk_size: Smallest read in bytes that adaptive reading chooses on slow links.
        part_size: Bytes of one part; ``None`` chooses by file size and speed of a connection, 8 to 64 MiB.
        enable_resume: Whether to go on from staged files of earlier runs.
        enable_adaptive_chunking: Whether reads and parts follow the measured speed of their source.
        enable_compression: Whether to ask for gzip for small whole text files.
        verify: Whether digests are checked. Turn off only for measurements.
        queue_timeout: Seconds ``download_model_parallel`` waits at the most; ``None`` for ever.
        connect_timeout: Seconds for one connection attempt.
        stall_timeout: Seconds between two bytes after which a connection is abandoned.
        first_byte_timeout: Seconds from a request to the first byte of its answer after which a connection is
            abandoned. ``None``: three quarters of ``give_up_after``, which leaves room for another attempt;
            less where the source has been quicker by far, see
            :meth:`hf_haul.metrics.SourceHistory.answer_timeout`.
        give_up_after: Seconds without a new byte after which a file fails; waits that the server asked for
            do not count.
        max_retries: Failures in a row without a new byte after which a part, and so its file, fails.
        first_retry_wait: Upper end in seconds of the first random wait between attempts; doubles each time.
        max_retry_wait: Upper end in seconds of any random wait between attempts.
        durable: Whether what is said to be done survives a power failure. A large file is flushed to the disk
            before it gets its name; small ones, up to 4 MiB, are flushed together, with all names, before
            their queue, and so the snapshot, is said to be done. After a power failure in between, a small
            file may be short of bytes under its name: the next download sees that by its size.
        disk_check: ``strict`` raises if a queue's files will not fit, ``warn`` warns, ``off`` does not look.
        max_listing: Entries of a repository's listing, at the most: a server that never stops naming files
            has to be stopped. 10 million, because the largest datasets have some hundred thousand.
        write_mode: ``offset`` writes parts in place, ``sequential`` one stream per file in order, ``auto``
            starts with the first and falls back to the second.
        fs_cache: What ``haul://`` reads from and keeps what it reads in: ``memory``, or also ``hub``,
            huggingface_hub's cache on disk.
        sources: URLs of servers that have the Hub's repositories under the same paths: bytes come from them,
            too, and are checked by what the Hub says.
        source_tokens: The token of each such server, by its URL; in the file a table of this name. A secret,
            and so not shown, and no variable; ``HF_HAUL_SOURCE_TOKEN`` is that of all others.
        timings: Seconds that nobody has to choose; only in Python.
    """

    max_concurrent_downloads: int = 64
    initial_connections: int = 4
    max_read_connections: int = 64
    max_concurrent_files_per_model: int = 64
    max_bandwidth_bps: int | None = None
    connection_pool_size: int | None = None
    max_connections_per_host: int | None = None
    chunk_size: int = MiB
    min_chunk_size: int = 16 * KiB
    part_size: int | None = None
    enable_resume: bool = True
    enable_adaptive_chunking: bool = True
    enable_compression: bool = False
    verify: bool = True
    queue_timeout: float | None = None
    connect_timeout: float = 10.0
    stall_timeout: float = 10.0
    first_byte_timeout: float | None = None
    give_up_after: float = 90.0
    max_retries: int = 8
    first_retry_wait: float = 0.5
    max_retry_wait: float = 15.0
    durable: bool = True
    disk_check: DiskCheck = "strict"
    max_listing: int = 10_000_000
    write_mode: WriteMode = "auto"
    fs_cache: FsCache = "memory"
    sources: tuple[str, ...] = field(default=(), repr=False)  # they may hold a password
    source_tokens: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    timings: Timings = field(default=DEFAULT_TIMINGS, repr=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled, also before a field was added."""
        new = {
            each.name: each.default_factory() for each in fields(self) if each.default_factory is not MISSING
        }
        self.__dict__.update(new | state)

    def __post_init__(self) -> None:
        for each in setting_fields():
            value, kind = getattr(self, each.name), str(each.type)
            if kind.startswith(("int", "float")):
                whole = kind.startswith("int") and each.name != "max_bandwidth_bps"
                require_number(each.name, value, whole=whole, optional="None" in kind)
            elif kind == "bool" and value not in (True, False):
                raise TypeError(f"{each.name} must be True or False, not {value!r}")
        sources: Any = self.sources
        if not isinstance(sources, list | tuple) or not all(isinstance(each, str) for each in sources):
            shown = redact(sources) if isinstance(sources, str) else sources
            raise TypeError(f"sources must be a list of URLs, not {shown!r}")
        object.__setattr__(self, "sources", tuple(sources))
        tokens: Any = self.source_tokens
        pairs = tokens.items() if isinstance(tokens, Mapping) else [(None, None)]
        if not all(isinstance(each, str) for pair in pairs for each in pair):
            raise TypeError("source_tokens must be a dict of tokens, by the URLs of sources")
        for url in (*self.sources, *self.source_tokens):
            _require(url.startswith(("http://", "https://")), "sources", redact(url), "URLs of http or https")
        for name in (
            "max_concurrent_downloads", "initial_connections", "max_read_connections", "max_concurrent_files_per_model",
            "chunk_size", "min_chunk_size", "connect_timeout", "stall_timeout", "give_up_after", "max_listing",
        ):  # fmt: skip
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in (
            "max_bandwidth_bps", "connection_pool_size", "max_connections_per_host", "part_size", "queue_timeout",
            "first_byte_timeout",
        ):  # fmt: skip
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "more than 0, or None")
        for name in ("max_retries", "first_retry_wait", "max_retry_wait"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(
            self.disk_check in get_args(DiskCheck),
            "disk_check",
            self.disk_check,
            "strict, warn or off",
        )
        modes = get_args(WriteMode)
        _require(self.write_mode in modes, "write_mode", self.write_mode, "auto, offset or sequential")
        _require(self.fs_cache in get_args(FsCache), "fs_cache", self.fs_cache, "memory or hub")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **changes: Any) -> Settings:
        """Return the defaults, changed by the configuration file, by variables, and by ``changes``.

        Each field can be set in ``hf-haul.toml`` by its name, and by a variable:
        ``HF_HAUL_MAX_BANDWIDTH_BPS=50MB/s``, ``HF_HAUL_DISK_CHECK=warn``,
        ``HF_HAUL_MAX_CONCURRENT_DOWNLOADS=8``. ``HF_HAUL_MAX_BANDWIDTH`` and ``HF_HAUL_MAX_CONNECTIONS`` are
        short for the first and the last. A variable or key that is no setting is warned of once.

        ``HF_HUB_DOWNLOAD_TIMEOUT`` stands for the seconds to a first byte and for those between two bytes, as
        with huggingface_hub; a file is then tried for twice as long at the least.

        Args:
            environ: The variables, ``HF_HAUL_CONFIG`` among them; the process's own if ``None``.
            changes: Fields by name; they win over the variables. ``None`` values are passed over; the
                bandwidth may be a text, of which ``"unlimited"`` lifts a limit of the variables'.

        Raises:
            ValueError: A value is unusable; the message names the variable, the file and its key, or the
                field.
        """
        values = _set_values(os.environ if environ is None else environ, read_config(environ))
        return cls(**{**{name: each.value for name, each in values.items()}, **_given(changes)})

    def changed(self, **changes: Any) -> Settings:
        """Return these settings with other values.

        Args:
            changes: Fields by name, as for :meth:`from_environment`.
        """
        return replace(self, **_given(changes))


def setting_fields() -> list[Field[Any]]:
    """Return the fields that people set by a variable or a key, and may see."""
    return [each for each in fields(Settings) if each.name not in _UNSET]


def _given(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given, with the rate read."""
    given = {name: value for name, value in changes.items() if value is not None}
    rate = given.get("max_bandwidth_bps")
    if isinstance(rate, str) and not rate.strip():
        del given["max_bandwidth_bps"]
    elif rate is not None:  # a text that means None has to count
        given["max_bandwidth_bps"] = parse_rate(rate, "max_bandwidth_bps")
    return given


def _require(ok: bool, name: str, value: object, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


@dataclass(frozen=True, slots=True)
class SettingsInForce:
    """Settings, and where each of their values comes from.

    Attributes:
        settings: The settings.
        origins: Where each value comes from, by the name of its field.
        file: The configuration file.
    """

    settings: Settings
    origins: Mapping[str, SettingSource]
    file: ConfigFile


def settings_in_force(environ: Mapping[str, str] | None = None) -> SettingsInForce:
    """Return what :meth:`Settings.from_environment` returns, and where it comes from.

    Args:
        environ: The variables; the process's own if ``None``.

    Raises:
        ValueError: A value is unusable.
    """
    file = read_config(environ)
    values = _set_values(os.environ if environ is None else environ, file)
    settings = Settings(**{name: each.value for name, each in values.items()})
    origins = {
        each.name: values[each.name].origin if each.name in values else SettingSource()
        for each in setting_fields()
    }
    return SettingsInForce(settings, origins, file)


def _set_values(environ: Mapping[str, str], file: ConfigFile) -> dict[str, SetValue]:
    """Return the values that are not defaults, those of the environment before those of the file."""
    types = {each.name: str(each.type) for each in setting_fields()}
    values = {**values_in_file(file, types, _check), **source_tokens_in_file(file)}
    values.update(_values_of_upstream(environ, values.get("give_up_after")))
    values.update(values_in_environment(environ, types, _check))
    return values


def _check(name: str, value: Any) -> None:
    """Raise where a field cannot have a value, so that the message can say where it comes from."""
    Settings(**{name: value})


def _values_of_upstream(environ: Mapping[str, str], give_up_after: SetValue | None) -> dict[str, SetValue]:
    """Return what ``HF_HUB_DOWNLOAD_TIMEOUT`` sets, read as huggingface_hub does.

    Args:
        environ: The variables.
        give_up_after: What the file says of it, which has to be longer than one answer may take.

    Raises:
        ValueError: It is no number.
    """
    text = environ.get(_UPSTREAM_TIMEOUT, "").strip()
    try:
        seconds = float(int(text)) if text else 0.0
    except ValueError as error:
        raise ValueError(f"environment variable {_UPSTREAM_TIMEOUT}={text!r}: {error}") from error
    if seconds <= 0:
        return {}
    value = SetValue(seconds, SettingSource("environment", _UPSTREAM_TIMEOUT))
    values = {"stall_timeout": value, "first_byte_timeout": value}
    if 2 * seconds > (Settings.give_up_after if give_up_after is None else give_up_after.value):
        values["give_up_after"] = replace(value, value=2 * seconds)
    return values
