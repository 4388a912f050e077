"""verify, plan and bench as processes of their own, against a local Hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.hub import ServedRepo, hub_environment, serve_repo
from tests.support.repos import contents

from hf_haul.localhub.testing.faults import Status, Trickle

COMMAND = [sys.executable, "-W", "error", "-m", "hf_haul.cli"]
LARGE = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source"), shard_bytes=4_000_000) as served:
        yield served


@pytest.fixture
def served(source: ServedRepo) -> Iterator[ServedRepo]:
    source.hub.requests.clear()
    yield source
    source.hub.faults.clear()


@pytest.fixture
def env(served: ServedRepo, tmp_path: Path) -> dict[str, str]:
    return hub_environment(served.hub, tmp_path / "home", HF_HAUL_GIVE_UP_AFTER="5")


def _run(env: dict[str, str], *args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def downloaded(source: ServedRepo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What a download made, and the snapshot in it."""
    home = tmp_path_factory.mktemp("downloaded")
    done = _run(hub_environment(source.hub, home), "download", "org/tiny")
    assert done.returncode == 0, done.stderr
    return home, Path(done.stdout.removesuffix("\n"))


@pytest.fixture
def folder(downloaded: tuple[Path, Path], env: dict[str, str]) -> Path:
    """The snapshot, as if it had just been downloaded."""
    home, made = downloaded
    shutil.copytree(home, env["HF_HOME"], symlinks=True, dirs_exist_ok=True)
    return Path(env["HF_HOME"]) / made.relative_to(home)


# ---- verify


@pytest.mark.parametrize("target", ["org/tiny", "models/org/tiny", "hf://org/tiny@main", "FOLDER", "REPO"])
def test_what_is_right_ends_with_0_and_one_line(
    served: ServedRepo, env: dict[str, str], folder: Path, target: str
) -> None:
    served.hub.requests.clear()
    where = {"FOLDER": str(folder), "REPO": str(folder.parents[1])}.get(target, target)
    done = _run(env, "verify", where)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{len(served.contents)} files of org/tiny at {folder.name[:8]}: ")
    assert f"{len(served.contents)} ok; read " in line
    assert line.endswith("by the listing that was kept")
    assert len(served.hub.requests) == 0


def test_what_is_wrong_ends_with_7_and_a_line_for_each_and_can_be_repaired(
    served: ServedRepo, env: dict[str, str], folder: Path
) -> None:
    os.truncate((folder / LARGE).resolve(), 3_000_000)
    (folder / "config.json").resolve().unlink()
    done = _run(env, "verify", "org/tiny")
    assert done.returncode == 7
    *lines, summary = done.stdout.splitlines()
    size = (served.folder / LARGE).stat().st_size
    assert sorted(lines) == [
        "missing   config.json: its link leads to nothing",
        f"wrong     {LARGE}: it has 3000000 bytes and should have {size}",
    ]
    assert f"{len(served.contents) - 2} ok, 1 wrong, 1 missing; read " in summary
    assert done.stderr == "hf-haul: the same command with --repair fetches what is wrong or missing\n"
    done = _run(env, "verify", "org/tiny", "--repair")
    assert done.returncode == 0, done.stderr
    assert (
        f"repaired  {LARGE}: it has 3000000 bytes and should have {size}; it was completed, 3.0 MB of it kept"
        in (done.stdout.splitlines())
    )
    assert "(2 repaired, " in done.stdout
    assert contents(folder) == served.contents
    assert _run(env, "verify", folder).returncode == 0


def test_what_could_not_be_repaired_ends_with_7_and_says_why(
    served: ServedRepo, env: dict[str, str], folder: Path
) -> None:
    (folder / "config.json").resolve().write_bytes(b"x" * (folder / "config.json").stat().st_size)
    served.hub.faults.add(Status(403), path="config.json", times=None)
    done = _run(env, "verify", "org/tiny", "--repair")
    assert done.returncode == 7
    assert any(
        line.startswith("wrong     config.json: ") and "; not repaired: " in line
        for line in done.stdout.splitlines()
    )


def test_json_is_one_object_and_all_of_stdout(served: ServedRepo, env: dict[str, str], folder: Path) -> None:
    os.truncate((folder / LARGE).resolve(), 3_000_000)
    done = _run(env, "verify", "org/tiny", "--json")
    assert done.returncode == 7
    told = json.loads(done.stdout)
    assert (told["success"], told["wrong"], told["ok"]) == (False, 1, len(served.contents) - 1)
    (wrong,) = [file for file in told["files"] if file["state"] == "wrong"]
    assert (wrong["path"], wrong["fault"], wrong["size"]) == (LARGE, "size", 3_000_000)


def test_every_file_is_told_if_asked_for_and_only_those_that_are_named(
    env: dict[str, str], folder: Path
) -> None:
    (folder / "mine.txt").write_text("mine")
    done = _run(env, "verify", "org/tiny", "config.json", "mine.txt", "nested/one/", "-v")
    assert done.returncode == 0, done.stderr
    *lines, summary = done.stdout.splitlines()
    assert {"ok        config.json", "extra     mine.txt", "ok        nested/one/also.json"} <= set(lines)
    assert summary.startswith("4 files of ")


def test_a_file_that_is_named_and_is_not_there_is_not_found(env: dict[str, str], folder: Path) -> None:
    done = _run(env, "verify", folder, "config.json", "nothing.json")
    assert done.returncode == 3
    assert "There is no nothing.json in org/tiny" in done.stderr


def test_a_folder_of_no_known_repository_is_not_repaired_but_told_how(
    env: dict[str, str], tmp_path: Path
) -> None:
    where = tmp_path / "files"
    assert _run(env, "download", "org/tiny", "--local-dir", where).returncode == 0
    for note in where.rglob("*.metadata"):  # as huggingface_hub leaves them
        note.write_text("\n".join(note.read_text().splitlines()[:3]))
    (where / "config.json").unlink()
    done = _run(env, "verify", where)
    assert done.returncode == 7
    assert f"hf-haul verify REPO --local-dir {where} --repair" in done.stderr
    assert _run(env, "verify", where, "--repair").returncode == 2
    assert _run(env, "verify", "org/tiny", "--local-dir", where, "--repair").returncode == 0
    assert _run(env, "verify", where).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["verify", "org/nobody"], 3, "org/nobody is not in the cache"),
        (["verify", "./nothing"], 3, "neither a folder here nor the id of a repository"),
        (["verify", "org/tiny", "--cache-dir", "a", "--local-dir", "b"], 2, "cannot be used together"),
        (["verify", "datasets/org/tiny", "--type", "space"], 2, "is a dataset, and --repo-type says space"),
        (["verify", "hf://buckets/a/b"], 2, "buckets are not repositories"),
        (["plan", "org/nobody"], 3, "org/nobody"),
        (["plan", "org/tiny", "config.json", "nothing.json"], 3, "There is no nothing.json in org/tiny"),
        (["plan", "org/tiny", "nothing/"], 3, "There is no nothing/ in org/tiny"),
        (["bench", "http://127.0.0.1:9/x"], 5, "127.0.0.1"),
        (["bench", "http://127.0.0.1:9/x", "--revision", "v1"], 2, "are for repositories, not for a URL"),
    ],
)
def test_other_ends_have_codes_of_their_own(
    env: dict[str, str], arguments: list[str], code: int, text: str
) -> None:
    done = _run({**env, "HF_HAUL_MAX_RETRIES": "0"}, *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for a process of its own")
def test_an_interrupt_ends_verifying_within_a_second(env: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "cache/models--org--huge"
    blob, link = root / "blobs" / ("a" * 64), root / "snapshots" / ("1" * 40) / "huge.bin"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(1 << 40)  # takes no room, and ten minutes
    link.symlink_to(os.path.relpath(blob, link.parent))
    with subprocess.Popen(
        [*COMMAND, "verify", str(link.parent)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert _reads(process.pid, 500_000_000)  # more than modules have
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert time.monotonic() - began < 2
            assert process.stderr is not None
            said = "hf-haul: interrupted; 0 files were checked, none of them wrong or missing\n"
            assert process.stderr.read() == said
        finally:
            process.kill()


def _reads(pid: int, nbytes: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        counted = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        if int(counted["rchar"]) > nbytes:
            return True
        time.sleep(0.02)
    return False


# ---- plan


def test_a_plan_is_told_and_nothing_is_written(served: ServedRepo, env: dict[str, str]) -> None:
    done = _run(env, "plan", "org/tiny", "--at", "1MB/s", "--include", "model-*")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        f"fetch   NORMAL    4.0 MB  {name}" for name in (LARGE, LARGE.replace("1-of", "2-of"))
    ]
    assert lines[2].startswith(f"org/tiny at {served.repo.head.id[:8]} into {env['HF_HOME']}")
    assert lines[3] == "  2 files, 8.0 MB; 0 B are here"
    assert lines[4].startswith("  to fetch: 2 files, 8.0 MB, in about ")
    assert lines[5].startswith("  disk: 8.0 MB needed; ")
    assert lines[6] == "  at 1.0 MB/s: 8 s"
    assert not Path(env["HF_HOME"]).exists()


def test_a_plan_is_one_object_with_json(env: dict[str, str], folder: Path) -> None:
    told = json.loads(_run(env, "plan", "org/tiny", "--json").stdout)
    assert (told["bytes_to_fetch"], told["path"], told["fits"]) == (0, str(folder), True)
    told = json.loads(_run(env, "plan", "org/tiny", "config.json", "--force-download", "--json").stdout)
    assert told["bytes_to_fetch"] == (folder / "config.json").stat().st_size


# ---- bench


def test_a_measurement_is_told_and_nothing_is_written(
    served: ServedRepo, env: dict[str, str], tmp_path: Path
) -> None:
    served.hub.faults.add(Trickle(2e5), kind="cdn", times=None)
    work = tmp_path / "work"
    work.mkdir()
    done = _run(env, "bench", "org/tiny", "--max-connections", 2, "--max-seconds", 2, cwd=work)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith(f"/{LARGE}, 4.0 MB")
    assert lines[1].startswith("first byte after ")
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    assert lines[4].startswith("best: 2 connections, ")
    assert "each connection brings about the same" in lines[5]
    assert done.stderr.splitlines()[0] == f"hf-haul: reading {LARGE}; what comes is thrown away"
    assert list(work.iterdir()) == []
    assert not (Path(env["HF_HOME"]) / "hub").exists()


def test_a_server_that_asks_to_wait_is_told_and_no_failure_of_the_measurement(
    served: ServedRepo, env: dict[str, str]
) -> None:
    served.hub.faults.add(Trickle(2e5), kind="cdn", times=None)
    served.hub.faults.add(Status(429), kind="cdn", nth=8, times=None)
    done = _run(env, "bench", "org/tiny", "--max-seconds", 6, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["limit"] == "server"
    assert "429" in told["stopped"]


def test_any_url_can_be_measured(served: ServedRepo, env: dict[str, str]) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/{LARGE}"
    served.hub.faults.add(Trickle(2e5), kind="cdn", times=None)
    done = _run(env, "bench", url, "--max-connections", 1, "--max-seconds", 1, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{url}, 4.0 MB\n")
