"""Few file descriptors left: macOS gives 256 in all, and a training process may hold most of any number."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.support.hub import hub_environment, run_python
from tests.support.repos import contents, random_bytes

from hf_haul.config import KiB, MiB
from hf_haul.localhub import LocalHub, Repo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")

#: Downloads a repository, or reads its files, with so many descriptors left.
_CODE = """
import logging, os, resource, sys
logging.basicConfig(level=logging.WARNING)
import hf_haul, hf_haul.manager, hf_haul.hub.snapshot, huggingface_hub.file_download
from hf_haul.filesystem import HaulFileSystem
free, way = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
held = [open(os.devnull) for _ in range(256 - (len(os.listdir("/dev/fd")) - 1) - free)]
try:
    if way == "read":
        system = HaulFileSystem(token=False)
        names = [name for name in system.find("org/many") if name.endswith(".bin")]
        print(sum(len(data) for data in system.cat(names).values()))
    else:
        where = {"local_dir": os.environ["HF_HOME"] + "/local"} if way == "local_dir" else {}
        print(hf_haul.snapshot_download("org/many", token=False, **where))
except OSError as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, Path]:
    folder = tmp_path_factory.mktemp("many")
    for number in range(60):
        path = folder / f"d{number % 7}" / f"f{number:03}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number * 2000)
    (folder / "large.safetensors").write_bytes(random_bytes(4 * MiB, "large"))
    return Repo.from_folder(folder, "org/many"), folder


@pytest.mark.parametrize("way", ["cache", "local_dir", "read"])
@pytest.mark.parametrize("free", [60, 30, 12])
def test_with_few_descriptors_everything_works(
    many: tuple[Repo, Path], tmp_path: Path, free: int, way: str
) -> None:
    repo, folder = many
    with LocalHub(repo, lfs="direct") as hub:
        environment = hub_environment(hub, tmp_path / "home", HF_HAUL_PART_SIZE=f"{512 * KiB}")
        done = run_python(_CODE, environment, str(free), way, timeout=120)
    assert done.returncode == 0, done.stderr
    if way == "read":
        assert int(done.stdout) == sum(path.stat().st_size for path in folder.rglob("*.bin"))
    else:
        assert contents(Path(done.stdout.strip())) == contents(folder)
    assert not list(tmp_path.rglob("*.incomplete"))
    if free == 12:
        assert "file descriptors are free of the 256" in done.stderr
        assert "ulimit" in done.stderr


def test_with_next_to_none_the_error_says_what_is_missing(many: tuple[Repo, Path], tmp_path: Path) -> None:
    with LocalHub(many[0], lfs="direct") as hub:
        environment = hub_environment(hub, tmp_path / "home")
        done = run_python(_CODE, environment, "2", "cache", timeout=120)
    assert done.returncode == 1
    # Of a file or a connection for one; nothing has a name while it is looked up what there is.
    assert re.search(
        r"^TooManyOpenFilesError (\S+: )?There is no file descriptor for a ", done.stderr, re.MULTILINE
    )
    assert "ulimit -n" in done.stderr
