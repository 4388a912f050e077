"""A Hub that sends anything: whatever it is, only our errors, huggingface_hub's and those of the system come out.

Each case changes one thing in the answers of one kind: a header, a field of the JSON, the status, or the body. The cases are
the same each time; ``python -m tests.integration.test_fuzzed_hub 10000 20000`` runs others.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors as upstream_errors
from tests.support.raw_hub import RawAnswer, RawHub
from tests.support.repos import random_bytes

from hf_haul import retry_after
from hf_haul.config import KiB, Settings, Timings
from hf_haul.errors import HaulError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub import asking
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.manager import ParallelDownloadManager
from hf_haul.transports import pacing, retry

CASES = 60
#: Seconds for one case, on a busy machine. Nothing waits for more than a few tenths of one.
BOUND = 30.0

FILES = {
    "config.json": b'{"a": 1}\n',
    "model.bin": random_bytes(40_000, "fuzzed"),
    "data/a b#%20.txt": b"a b",
    "empty.txt": b"",
}
SETTINGS = Settings(
    part_size=16 * KiB, chunk_size=8 * KiB, min_chunk_size=KiB, first_retry_wait=0.0, max_retry_wait=0.0, max_retries=2,
    connect_timeout=5.0, stall_timeout=1.0, first_byte_timeout=2.0, give_up_after=4.0, durable=False,
    timings=Timings(file_changes=0.05, refused_links=0.0, ask_again=(0.0, 0.0)),
)  # fmt: skip
#: Whatever huggingface_hub raises of its own; its client's errors are the base of them.
ALLOWED: tuple[type[BaseException], ...] = (
    HaulError,
    OSError,
    asking.httpx.HTTPError,
    *(
        each
        for each in vars(upstream_errors).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
)

KINDS = ("info", "tree", "paths-info", "resolve", "cdn")
HEADERS = (
    "Content-Type", "Content-Length", "Content-Range", "Content-Encoding", "Transfer-Encoding", "ETag", "X-Repo-Commit",
    "X-Linked-Etag", "X-Linked-Size", "X-Xet-Hash", "Link", "Location", "X-Error-Code", "X-Error-Message", "RateLimit",
    "RateLimit-Policy", "Retry-After", "Date", "Last-Modified", "Accept-Ranges", "X-Request-Id", "X-HF-Warning",
    "Set-Cookie", "Connection", "Content-Disposition", "X-Xet-Refresh-Route", "Vary", "X-Haul-Listing",
)  # fmt: skip
VALUES = (
    "", " ", "0", "-1", "7", "1.5", "1e9", "NaN", "inf", "9" * 19, "9" * 400, "9" * 5000, "\u0665", "\xb2", "\xe9", "\xff\xfe", "a\tb",
    "x" * 70_000, "a, b", ", ,", '"', '""', 'W/"', 'W/"x"', "'", "None", "null", "true", "*", "/", "//", ".", "..", "../../x", "/etc/x", "C:\\x",
    "a\\b", "CON", "%", "%00", "%ff", "%2e%2e%2f", "http://", "http://[::1", "http://[x]/", "http://a:b/", "http://a\\@b/", "http://u:p@a/",
    "ftp://a/b", "file:///etc/passwd", "data:,x", "//a/b", "?", "#", "http://127.0.0.1:1/x", "http://127.0.0.1:99999/", "bytes 0-5/3",
    "bytes 5-0/10", "bytes */*", "bytes 0-/", "bytes 0-9/*", "none", "gzip", "br", "deflate, gzip", "chunked", "identity, chunked", "close", "upgrade",
    "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 00 Foo 0000 99:99:99 XXX", "0001-01-01", '"api";r=0;t=' + "9" * 400, '"api";q=1', "r=0;t=1", "a" * 40,
    "b" * 64, "A" * 40, "g" * 40, "<>", '<>; rel="next"', '<http://[>; rel="next"', '<?cursor=2>; rel="next"', '<//127.0.0.1:1/x>; rel="next"', "text/html",
    "RepoNotFound", "EntryNotFound", "RevisionNotFound", "GatedRepo", "ListingUnknown", "partial", "x;y", "a=b; Path=/; Domain=x",
)  # fmt: skip
STATUSES = (
    200, 201, 204, 206, 207, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 412, 416, 418,
    421, 425, 429, 451, 499, 500, 501, 502, 503, 504, 505, 509, 520, 524, 529, 530, 599, 600, 700, 999,
)  # fmt: skip
NESTED: Any = "nested"
FIELDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 5, 1.5, 1e308, 1 << 63, 10**30, float("nan"), float("inf"), "", " ", "a", "/", "..", "../../x", "/etc/x", "a/../../x",
    "a\0b", "a\\b", "C:/x", "\ud800", "\u202e", "\xe9", "x" * 300, "d/" * 2100 + "x", "CON", "a" * 40, "b" * 64, "file", "directory", "main", [], {}, [None],
    [5], ["a"], {"a": 5}, {"oid": 5, "size": "x"}, "2026-01-01T00:00:00.000Z", "tomorrow", ".cache/huggingface/x", ".git/config", NESTED,
)  # fmt: skip


class Fuzz:
    """One change, made to every answer of one kind, or to the first of them."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.kind = self.random.choice(KINDS)
        self.once = self.random.random() < 0.2
        self.what = self.random.choice(
            ("header", "header", "header", "field", "field", "field", "status", "body", "raw")
        )
        self.made = ""
        self._state = self.random.getstate()

    def __call__(self, answer: RawAnswer) -> None:
        if answer.kind != self.kind or (self.once and self.made):
            return
        # The same change each time, whichever thread asks.
        chance = random.Random()
        chance.setstate(self._state)
        what = "header" if self.what == "field" and answer.kind in {"resolve", "cdn"} else self.what
        self.made = getattr(self, f"_{what}")(answer, chance)
        answer.close = True  # what is promised and does not come is not waited for

    def _header(self, answer: RawAnswer, chance: random.Random) -> str:
        names = [*HEADERS, *[name for name, _ in answer.headers] * 6, "Content-Length"]
        name = chance.choice(names)
        how = chance.random()
        if how < 0.1:
            answer.set(name, None)
            return f"{answer.kind}: no {name}"
        value = chance.choice(VALUES)
        if how < 0.2:
            answer.headers.append((name, value))
            return f"{answer.kind}: one more {name}: {value[:60]!r}"
        answer.set(name, value)
        return f"{answer.kind}: {name}: {value[:60]!r}"

    def _status(self, answer: RawAnswer, chance: random.Random) -> str:
        answer.status = chance.choice(STATUSES)
        if chance.random() < 0.5:
            answer.body = chance.choice(
                (
                    b"",
                    b"<html>",
                    b'{"error": 5}',
                    b'{"errors": [5]}',
                    b"[1]",
                    b"[" * 5000,
                    b"\xff\xfe",
                    b'{"error": ["a", 1]}',
                )
            )
        if chance.random() < 0.5:
            answer.set(chance.choice(HEADERS), chance.choice(VALUES))
        return f"{answer.kind}: status {answer.status}, {answer.body[:20]!r}"

    def _body(self, answer: RawAnswer, chance: random.Random) -> str:
        data = answer.body
        at = chance.randrange(len(data) + 1)
        answer.body = chance.choice((
            b"", data[:at], data + b"x", data[:at] + b"\xff\x00" + data[at:], b"<html>", b"null", b"5", b'"x"', b"{}", b"[]", b"[[]]", b"[" * 100_000,
            b'{"a":' * 50_000, b"9" * 5000, b"[" + b"9" * 5000 + b"]", b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16"), b"NaN", b"[NaN]",
        ))  # fmt: skip
        return f"{answer.kind}: body {answer.body[:30]!r} ({len(answer.body)})"

    def _raw(self, answer: RawAnswer, chance: random.Random) -> str:
        data = answer.encode()
        answer.raw = chance.choice((
            b"", b"\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 99 OK\r\n\r\n", b"HTTP/1.1 1000 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n" + answer.body, b"garbage" * 100, data[: len(data) // 3],
            data.replace(b"\r\n", b"\n"), b"HTTP/1.1 200 \xff\xfe\r\n\r\n", b"HTTP/1.1 103 X\r\n\r\n" * 300, b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\nabc", b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        ))  # fmt: skip
        return f"{answer.kind}: raw {answer.raw[:60]!r}"

    def _field(self, answer: RawAnswer, chance: random.Random) -> str:
        value = json.loads(answer.body)
        place: Any = value
        keys: list[Any] = []
        while isinstance(place, dict | list) and place and (not keys or chance.random() < 0.75):
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            keys.append(key)
            if not isinstance(inner, dict | list) or not inner:
                break
            place = inner
        key = keys[-1]
        how = chance.random()
        if isinstance(place, dict):
            key = key if key in place else next(iter(place))
            if how < 0.3:
                key = chance.choice(
                    (
                        "type",
                        "lfs",
                        "xetHash",
                        "lastCommit",
                        "securityFileStatus",
                        "sha",
                        "siblings",
                        "createdAt",
                        "gated",
                        "x",
                    )
                )
        else:
            key = key if isinstance(key, int) and key < len(place) else 0
        if how > 0.85:
            del place[key]
            told = "deleted"
        else:
            place[key] = chance.choice(FIELDS)
            told = f"{key} = {place[key]!r}"
        text = json.dumps(value).replace(json.dumps(NESTED), "[" * 3000 + "]" * 3000)
        answer.body = text.encode()
        return f"{answer.kind}: {keys}: {told[:80]}"


class Doors:
    """Every way in, each with what it has to bring if it brings anything.

    That is the files' bytes, unless their etags change: files that a server calls the same are one file in a cache.
    """

    def __init__(self, hub: RawHub, fuzz: Fuzz, manager: ParallelDownloadManager, folder: Path) -> None:
        self.hub, self.fuzz, self.manager, self.folder = hub, fuzz, manager, folder
        self.options: dict[str, Any] = {
            "endpoint": hub.url,
            "token": False,
            "manager": manager,
            "etag_timeout": 5,
        }

    def snapshot(self) -> None:
        root = snapshot_download("org/m", cache_dir=self.folder, **self.options)
        self.check_files(Path(root))

    def local_dir(self) -> None:
        root = snapshot_download("org/m", local_dir=self.folder / "here", **self.options)
        self.check_files(Path(root))

    def file(self) -> None:
        for name, data in FILES.items():
            path = hf_hub_download("org/m", name, cache_dir=self.folder, **self.options)
            assert Path(path).read_bytes() == data or "etag" in self.fuzz.made.lower(), name

    def manage(self) -> None:
        for name, data in FILES.items():
            specs = [SimpleNamespace(path=name, size=None), SimpleNamespace(path=f"2/{name}", size=len(data))]
            for spec in specs:
                spec.url = self.hub.file_url(name.replace("%", "%25").replace("#", "%23").replace(" ", "%20"))
            queue = self.manager.queue_model_download("g", specs, self.hub.url, self.folder)
            result = self.manager.wait_for_model_completion(queue, BOUND)
            assert not result["timed_out"]
            for failed in result["failed_files"]:
                kind = failed["error"].partition(":")[0]
                assert kind in {each.__name__ for each in all_subclasses(HaulError, OSError)}, failed["error"]

    def haul(self) -> None:
        fs = HaulFileSystem(endpoint=self.hub.url, token=False, skip_instance_cache=True)
        fs.manager = self.manager
        for name, data in FILES.items():
            assert fs.cat_file(f"org/m/{name}") == data
            with fs.open(f"org/m/{name}") as file:
                file.seek(min(5, len(data)))
                assert file.read(7) == data[5:12]

    def listing(self) -> None:
        fs = HaulFileSystem(endpoint=self.hub.url, token=False, skip_instance_cache=True)
        fs.manager = self.manager
        fs.find("org/m", detail=True)
        fs.invalidate_cache()
        fs.ls("org/m/data")
        fs.info("org/m/config.json", expand_info=True)
        fs.get("org/m", str(self.folder / "got"), recursive=True)

    @staticmethod
    def check_files(root: Path) -> None:
        for name, data in FILES.items():
            if (root / name).exists():
                assert (root / name).read_bytes() == data, name


def all_subclasses(*kinds: type) -> Iterator[type]:
    for kind in kinds:
        yield kind
        yield from all_subclasses(*kind.__subclasses__())


DOORS = ("snapshot", "local_dir", "file", "manage", "haul", "listing")


def run(door: str, seed: str, folder: Path) -> None:
    """Run one case.

    Raises:
        AssertionError: Something else than an error of ours, huggingface_hub's or the system's came out, or wrong bytes.
    """
    fuzz = Fuzz(seed)
    began = time.monotonic()
    with RawHub(dict(FILES), fuzz) as hub, ParallelDownloadManager(settings=SETTINGS) as manager:
        try:
            getattr(Doors(hub, fuzz, manager, folder), door)()
        except ALLOWED:
            pass
        except BaseException as error:
            raise AssertionError(
                f"{door}, {seed}: {fuzz.made}: {type(error).__name__}: {str(error)[:300]}"
            ) from error
    seconds = time.monotonic() - began
    assert seconds < BOUND, f"{door}, {seed}: {fuzz.made}: took {seconds:.0f} s"


@contextmanager
def in_no_time(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nothing wait for long that waits for a reason."""
    for module in (retry_after, pacing):
        patch.setattr(module, "MAX_BUSY_WAIT", 0.02)
        patch.setattr(module, "MAX_RATE_LIMIT_WAIT", 0.02)
    patch.setattr(retry, "MAX_RATE_LIMIT_WAIT", 0.02)
    yield


@pytest.mark.parametrize("door", DOORS)
def test_whatever_a_server_sends_ends_in_an_error_that_says_so(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_no_time(monkeypatch):
        for number in range(CASES):
            run(door, f"{door} {number}", tmp_path / str(number))


def _explore(first: int, last: int, say: Callable[[str], object]) -> int:
    logging.disable(logging.CRITICAL)
    found = 0
    with pytest.MonkeyPatch.context() as patch, in_no_time(patch), tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            for door in DOORS:
                try:
                    run(door, f"{door} {number}", Path(folder) / f"{door}{number}")
                except AssertionError as error:
                    found += 1
                    cause = error.__cause__ or error
                    where = traceback.extract_tb(cause.__traceback__)[-1]
                    say(f"{error} ({where.filename.rpartition('/')[2]}:{where.lineno})\n")
    return found


if __name__ == "__main__":
    sys.exit(min(1, _explore(int(sys.argv[1]), int(sys.argv[2]), sys.stdout.write)))
