"""Every program in examples/ does what it says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.hub import hub_environment, run_python, serve_repo
from tests.support.repos import contents, random_bytes
from tests.support.wants import want_modules

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Corrupt

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(program: str, env: dict[str, str], *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / program, *map(str, args)],
        env=env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text] == []


# ---- quickstart


@pytest.fixture
def plain_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer, who has set nothing; but no home of the user's."""
    with LocalHub() as hub:
        env = hub_environment(hub, tmp_path / "home")
    return {
        name: value
        for name, value in env.items()
        if name not in {"HF_ENDPOINT", "HF_HUB_DISABLE_XET", "NO_PROXY"}
    }


def test_the_quickstart_downloads_a_model_and_proves_it(plain_env: dict[str, str]) -> None:
    done = _run("quickstart.py", plain_env, "--size", "24MB", "--pace", "2MB/s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  ok     ") == 8
    assert "everything is as it should be" in done.stdout
    for told in (
        "files ",
        "bytes ",
        "seconds ",
        "MB/s ",
        "config, tokenizer, index ",
        "requests to the Hub ",
        "failed requests, retried ",
    ):
        assert f"  {told}" in done.stdout


def test_the_quickstart_says_so_if_a_byte_is_wrong(plain_env: dict[str, str]) -> None:
    tampered = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import hf_haul, quickstart
from pathlib import Path
download = hf_haul.snapshot_download
def tampering(*args, **options):
    folder = download(*args, **options)
    shard = sorted(Path(folder).glob("*.safetensors"))[0].resolve()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return folder
hf_haul.snapshot_download = tampering
sys.exit(quickstart.main())
"""
    done = run_python(tampered, plain_env, str(EXAMPLES), "--size", "1MB", "--pace", "none")
    assert done.returncode == 1, done.stderr
    assert "FAILED every file is there, with the sha256 of its source" in done.stdout
    assert "something is off" in done.stdout


# ---- the manager


def test_a_paused_and_limited_download_arrives_whole(tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src") as served:
        env = hub_environment(served.hub, tmp_path / "home")
        target = tmp_path / "out"
        done = _run(
            "pause_and_limit.py", env, "org/tiny", target, "--max-bandwidth", "400kB/s", "--pause", "0"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert contents(target) == served.contents
    assert "now without the limit" in done.stdout
    assert f"{len(served.contents)} of {len(served.contents)} files" in done.stdout


# ---- plain URLs


@pytest.fixture
def two_files() -> dict[str, bytes]:
    return {"a.bin": random_bytes(300_000, "a"), "b.bin": random_bytes(100_000, "b")}


def _urls(hub: LocalHub, files: dict[str, bytes]) -> list[str]:
    return [
        f"{hub.url}/org/any/resolve/main/{name}#sha256={hashlib.sha256(data).hexdigest()}"
        for name, data in files.items()
    ]


def _serve(files: dict[str, bytes]) -> LocalHub:
    repo = Repo("org/any")
    repo.commit(dict(files), "two files")
    return LocalHub(repo)


def test_plain_urls_arrive_with_their_digests(tmp_path: Path, two_files: dict[str, bytes]) -> None:
    with _serve(two_files) as hub:
        env = hub_environment(hub, tmp_path / "home")
        done = _run("plain_urls.py", env, tmp_path / "out", *_urls(hub, two_files))
        assert done.returncode == 0, done.stdout + done.stderr
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == two_files
        assert hub.requests.settle()
        bodies = hub.body_bytes
        again = _run("plain_urls.py", env, tmp_path / "out", *_urls(hub, two_files))
        assert again.returncode == 0, again.stdout + again.stderr
        assert hub.requests.settle()
        assert hub.body_bytes == bodies, "what is there with the right digest is not fetched again"


def test_a_plain_url_with_wrong_bytes_fails_alone(tmp_path: Path, two_files: dict[str, bytes]) -> None:
    with _serve(two_files) as hub:
        hub.faults.add(Corrupt(1000), path="b.bin", times=None)
        env = hub_environment(hub, tmp_path / "home")
        done = _run("plain_urls.py", env, tmp_path / "out", *_urls(hub, two_files))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "b.bin: IntegrityError" in done.stdout
    assert (tmp_path / "out/a.bin").read_bytes() == two_files["a.bin"]
    assert not (tmp_path / "out/b.bin").exists()


# ---- the data loader


def test_workers_read_every_row_once(tmp_path: Path) -> None:
    repo = Repo("org/numbers", "dataset")
    repo.commit(
        {
            f"data/part-{n}.csv": "".join(["n,text\n", *(f"{n},row {i}\n" for i in range(500))]).encode()
            for n in range(5)
        },
        "five files",
    )
    with LocalHub(repo) as hub:
        env = hub_environment(hub, tmp_path / "home")
        done = _run("data_loader.py", env, "haul://datasets/org/numbers/data/*.csv", "--workers", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        nothing = _run("data_loader.py", env, "haul://datasets/org/numbers/*.txt")
    characters = 5 * sum(1 + len(f"row {i}") for i in range(500))
    assert done.stdout.startswith(f"2500 rows, {characters} characters, 5 files, 2 workers, ")
    assert nothing.returncode == 1


# ---- a cluster


def test_a_cluster_gets_a_repository_with_its_bytes_sent_once(plain_env: dict[str, str]) -> None:
    want_modules("distributed", extra="dask")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "distribute.py"],  # warnings are left to Dask, which has some
        env=plain_env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *nodes, last = [line for line in done.stdout.splitlines() if " bytes " in line and " of " not in line]
    assert len(nodes) == 3
    assert last.endswith(" to 3 nodes")
    assert int(last.split()[3]) <= 1.05 * (16 << 20) + 2
