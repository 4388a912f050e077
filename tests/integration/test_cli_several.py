"""``hf-haul download`` of several repositories in one call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.events import EventLog
from tests.support.hub import hub_environment
from tests.support.repos import contents, make_repo

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Corrupt, Delay, Stall, Status

COMMAND = [sys.executable, "-W", "error", "-m", "hf_haul.cli", "download"]
SHARD = "model-00001-of-00001.safetensors"
BOUND = 60.0


@dataclass
class _Served:
    """A hub with three repositories, two of them with one name."""

    hub: LocalHub
    env: dict[str, str]
    digests: dict[str, dict[str, str]]

    def run(self, *args: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, args)],
            env=self.env,
            input=given,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    digests, repos = {}, []
    for seed, (name, repo_type) in enumerate((("org/a", "model"), ("org/b", "model"), ("org/a", "dataset"))):
        spelling = name if repo_type == "model" else f"datasets/{name}"
        folder = tmp_path / "src" / spelling
        make_repo(folder, repo_type, seed=seed, shards=1, shard_bytes=300_000)
        digests[spelling] = contents(folder)
        repos.append(Repo.from_folder(folder, name, repo_type))
    with LocalHub(*repos) as hub:
        yield _Served(hub, hub_environment(hub, tmp_path / "home"), digests)


ALL = ["org/b", "datasets/org/a", "org/a"]


def _options(names: list[str]) -> list[str]:
    return [part for name in names for part in ("-r", name)]


def test_all_come_and_stdout_has_their_paths_in_the_order_given(served: _Served) -> None:
    done = served.run(*_options(ALL))
    assert (done.returncode, done.stderr) == (0, "")
    assert [contents(Path(line)) for line in done.stdout.splitlines()] == [
        served.digests[name] for name in ALL
    ]


@pytest.mark.parametrize("mode", ["tty", "plain", "json"])
def test_every_view_shows_all_as_one_and_ends(mode: str, served: _Served) -> None:
    served.hub.faults.add(Delay(0.8), kind="cdn", path=SHARD, times=2)
    done = served.run(*_options(ALL), "--progress", mode)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(ALL)
    last = done.stderr.splitlines()[-1]
    count = sum(map(len, served.digests.values()))
    if mode == "json":
        assert (json.loads(last)["ev"], json.loads(last)["files_fetched"]) == ("done", count)
    else:
        assert f"hf-haul: done: {count} files fetched" in last


def test_a_list_and_stdin_and_what_is_named_twice(served: _Served, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        "# models\n\norg/a@main  # the first\nhf://org/b/nested/one/also.json\n"
    )
    done = served.run("org/b", "-i", tmp_path / "list.txt", "-i", "-", given="datasets/org/a\norg/b\n")
    assert done.returncode == 0, done.stderr
    whole_b, whole_a, one_file, dataset, again = map(Path, done.stdout.splitlines())
    assert contents(whole_a) == served.digests["org/a"]
    assert contents(whole_b) == served.digests["org/b"]
    assert one_file == whole_b / "nested/one/also.json"
    assert contents(dataset) == served.digests["datasets/org/a"]
    assert again == whole_b


def test_a_list_with_a_bad_line_is_refused_before_anything_is_asked(served: _Served, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("org/a\n\norg/b extra\nhf://buckets/org/x\n")
    done = served.run("-i", tmp_path / "list.txt")
    assert (done.returncode, done.stdout) == (2, "")
    head, first, second = done.stderr.splitlines()
    assert head == f"hf-haul: error: 2 lines of {tmp_path / 'list.txt'} cannot be used"
    assert first.startswith(f"  {tmp_path / 'list.txt'}:3: 'org/b extra' is no repository")
    assert second.startswith(f"  {tmp_path / 'list.txt'}:4: buckets are not repositories")
    assert not list(served.hub.requests)


def test_a_repository_that_does_not_exist_does_not_stop_the_others(served: _Served) -> None:
    done = served.run(*_options(["org/a", "org/nope", "org/b"]))
    assert done.returncode == 3
    assert [contents(Path(line)) for line in done.stdout.splitlines()] == [
        served.digests["org/a"],
        served.digests["org/b"],
    ]
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-haul: ")]
    assert said == [
        "hf-haul: error: Repository org/nope does not exist, or may not be seen without a token",
        "hf-haul: 1 of 3 repositories failed: org/nope",
    ]


def test_a_failure_is_said_as_soon_as_it_is_known(served: _Served) -> None:
    stall = served.hub.faults.add(Stall(after=100_000), kind="cdn", path=SHARD, times=None)
    with subprocess.Popen(
        [*COMMAND, *_options(["org/a", "org/nope"])],
        env=served.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert stall.wait(30), "the other goes on"
            assert process.poll() is None
        finally:
            process.kill()
    assert line.startswith("hf-haul: error: Repository org/nope does not exist")


def test_of_several_failures_all_are_told_and_the_first_one_says_how_it_ends(served: _Served) -> None:
    served.hub.faults.add(Corrupt(1000), kind="cdn", path=SHARD, times=None)
    done = served.run(
        "org/b", "-r", "org/nope", "-r", "hf://org/a/config.json", "-r", "hf://org/a/config.jsn", "--json"
    )
    assert done.returncode == 7, done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == 7
    assert [result.get("exit_code", 0) for result in found["results"]] == [7, 3, 0, 3]
    assert [result["repo"] for result in found["results"]][:2] == ["org/b", "org/nope"]
    wrong, unknown, good, misspelt = found["results"]
    assert (wrong["path"], wrong["error"]["kind"], wrong["error"]["file"]) == (None, "integrity", SHARD)
    assert wrong["bytes_wasted"] >= 300_000
    assert unknown["error"]["kind"] == "not_found"
    assert Path(good["path"]).name == "config.json"
    assert good["files_fetched"] == 1
    assert unknown["seconds"] < wrong["seconds"], "each has its own"
    assert misspelt["error"]["hint"] == "Did you mean config.json?"
    for result in (wrong, unknown, misspelt):
        assert result["error"]["message"] in done.stderr


def test_events_are_those_of_one_download(served: _Served) -> None:
    served.hub.faults.add(Status(429, retry_after=1), kind="info", times=6)
    done = served.run(*_options([*ALL, "org/nope"]), "--progress", "json", "--json")
    assert done.returncode == 3, done.stderr
    log = EventLog()
    for line in done.stderr.splitlines():
        log(json.loads(line))
    together = EventLog()
    together.events = [each for each in log.events if "repo_id" not in each]
    together.check()
    count = sum(map(len, served.digests.values()))
    plan = together.one("plan")
    assert (plan["files"], plan["files_reused"]) == (count, 0)
    assert together.events[-1]["files_fetched"] == count
    files = [each for each in log.of("file") if each["state"] == "done"]
    assert {each["repo_id"] for each in files} == {"org/a", "org/b"}
    assert len(files) == count
    (failed,) = [each for each in log.of("error") if "repo_id" in each]
    assert failed["repo_id"] == "org/nope"
    results = json.loads(done.stdout)["results"]
    assert sum(result["files_fetched"] for result in results) == count


def test_a_hub_that_limits_requests_is_waited_for_once_and_said(served: _Served) -> None:
    served.hub.faults.add(Status(429, retry_after=1), kind="info", times=6)
    done = served.run(*_options(ALL), "--progress", "plain")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert 1 <= len([line for line in lines if line.startswith("hf-haul: wait: ") and "429" in line]) <= 3
    assert len([line for line in lines if line.startswith("hf-haul: plan: ")]) == 1
    assert lines[-1].startswith("hf-haul: done: ")


def test_a_folder_for_plain_files_has_one_for_each(served: _Served, tmp_path: Path) -> None:
    done = served.run(*_options(ALL), "--local-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [Path(line) for line in done.stdout.splitlines()] == [tmp_path / "out" / name for name in ALL]
    for name in ("org/b", "datasets/org/a"):
        assert contents(tmp_path / "out" / name).items() >= served.digests[name].items()


def test_two_revisions_do_not_share_a_folder(served: _Served, tmp_path: Path) -> None:
    done = served.run("org/a@main", "-r", "org/a@refs/pr/1", "--local-dir", tmp_path / "out")
    assert done.returncode == 2
    assert f"would both go to {tmp_path / 'out/org/a'}" in done.stderr
    assert not list(served.hub.requests)


def test_a_dry_run_shows_each_and_writes_nothing(served: _Served) -> None:
    done = served.run(*_options(["org/a", "org/nope", "org/b"]), "--dry-run")
    assert done.returncode == 3
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads[::2] == ["org/a:", "org/b:"]
    assert heads[1].startswith(f"[dry-run] Will download {len(served.digests['org/a'])} files")
    assert contents(Path(served.env["HF_HOME"])) == {}
    found = json.loads(served.run(*_options(["org/a", "org/nope"]), "--dry-run", "--json").stdout)
    assert len(found["results"][0]["files"]) == len(served.digests["org/a"])
    assert (found["results"][1]["exit_code"], found["exit_code"]) == (3, 3)


@pytest.mark.skipif(os.name == "nt", reason="no signals for a process of its own")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["while all are looked up", "while files come"])
def test_an_interrupt_ends_all_and_the_next_call_goes_on(
    stage: str, number: signal.Signals, code: int, served: _Served
) -> None:
    if stage == "while files come":
        stall = served.hub.faults.add(Stall(after=100_000), kind="cdn", path=SHARD, times=None)
    else:
        stall = served.hub.faults.add(Stall(after=0), kind="info", times=None)
    with subprocess.Popen(
        [*COMMAND, *_options(ALL), "--json", "--progress", "plain"],
        env=served.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert stall.wait(30)
            begun = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
            seconds = time.monotonic() - begun
        finally:
            process.kill()
    assert process.returncode == code, err
    assert seconds < 10
    assert "what was fetched is kept" in err
    found = json.loads(out)
    assert (found["error"]["kind"], found["exit_code"]) == ("interrupted", code)
    served.hub.faults.clear()
    done = served.run(*_options(ALL))
    assert done.returncode == 0, done.stderr
    assert [contents(Path(line)) for line in done.stdout.splitlines()] == [
        served.digests[name] for name in ALL
    ]


def test_many_repositories_end(served: _Served, tmp_path: Path) -> None:
    lines = [f"hf://org/a/{name}" for name in ("config.json", "README.md", "vocab.txt")]
    (tmp_path / "list.txt").write_text("\n".join([*lines, *ALL, *(f"org/none{n}" for n in range(40))]))
    done = served.run("-i", tmp_path / "list.txt", "--json")
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    assert done.returncode == 3
    assert [result["path"] is None for result in results] == [False] * 6 + [True] * 40
