"""Reads of `haul://` that cannot be had: what is said, and that the file goes on afterwards; and what memory reads take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import SRC, ServedRepo, hub_environment, serve_repo
from tests.support.repos import random_bytes

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.faults import Delay, Fault, Html, Reset, Status
from hf_haul.manager import ParallelDownloadManager

MODEL = "org/tiny"
BIG = random_bytes(4_000_000, "big")
LINE = BIG.index(b"\n", 2_000_000) + 1
QUICK = Settings(
    first_retry_wait=0.01, max_retry_wait=0.02, max_retries=2, first_byte_timeout=0.3, give_up_after=30.0
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "big.bin").write_bytes(BIG)
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def fs(served: ServedRepo) -> Iterator[HaulFileSystem]:
    with ParallelDownloadManager(settings=QUICK) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True, prefetch="none")
        fs.manager = manager
        yield fs
        served.hub.faults.clear()


#: Each with what is said of it, and whether it is a refusal, after which nothing is tried again.
FAULTS: dict[str, tuple[Fault, str, bool]] = {
    "an error of the server": (Status(500), "answered 500", False),
    "a busy server": (Status(503), "answered 503", False),
    "no answer": (Delay(20), "seconds|no byte|s without|stall", False),
    "a connection that is reset": (Reset(0), "reset|ended|closed|aborted", False),
    "a web page": (Html(), "says it has 78 bytes, expected 4000000", False),
    "no rights": (Status(403), "403 Forbidden", True),
    "a file that is gone": (Status(404), "404 Not Found", True),
}
READS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda file: file.read(1000),
    "readline": lambda file: file.readline(),
    "readinto": lambda file: file.readinto(bytearray(1000)),
    "cat_file": lambda file: file.fs.cat_file(file.path, 2_000_000, 2_001_000),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("read", READS)
def test_a_fault_that_lasts_is_an_oserror_and_the_file_can_be_read_afterwards(
    served: ServedRepo, fs: HaulFileSystem, fault: str, read: str
) -> None:
    bad, cause, refused = FAULTS[fault]
    with fs.open(f"{MODEL}/big.bin") as file:
        assert file.read(100) == BIG[:100]
        file.seek(2_000_000)
        for kind in ("cdn", "resolve"):
            served.hub.faults.add(bad, kind=kind, path="big.bin", times=None)
        with pytest.raises(OSError, match=r"big\.bin") as raised:
            READS[read](file)
        raised.match(cause)
        said = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
        assert re.search(r"bytes 2000000-\d+", said)
        assert refused or re.search(r"gave up on bytes \d+-\d+ after \d+ attempts", said)
        served.hub.faults.clear()
        assert file.tell() == 2_000_000
        assert file.readline() == BIG[2_000_000:LINE]
        assert file.read(1000) == BIG[LINE : LINE + 1000]


READER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import fsspec
from hf_haul.filesystem import HaulFileSystem
from hf_haul.manager import default_manager

fs = fsspec.filesystem("haul", token=False)
default_manager()

def peak():  # getrusage would tell the peak of the process that started this one, if it was higher
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = peak()

def read(number):
    done = 0
    with fs.open(f"org/tiny/{number}.bin") as file:
        while block := file.read(1 << 20):
            done += len(block)
    return done

with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(read, range(8))) == [64 << 20] * 8
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there /proc tells the peak")
def test_eight_files_read_at_once_take_less_than_320_mib(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.bin").touch()
        os.truncate(folder / f"{number}.bin", 64 << 20)
    with serve_repo(folder, lfs="redirect") as served:
        done = subprocess.run(
            [sys.executable, "-c", READER],
            env=hub_environment(served.hub, tmp_path / "home", PYTHONPATH=str(SRC)),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 320
