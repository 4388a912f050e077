"""``hf-haul get`` of many files: what is fetched, what is there already, what one failure does to the others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.events import validate_event
from tests.support.raw_hub import RawAnswer, RawHub

from hf_haul.cli import command as cli
from hf_haul.storage import download_notes

FILES = {"a.bin": b"a" * 300_000, "b.txt": b"text\n", "c/d.txt": b"deep\n"}


@pytest.fixture
def server() -> Iterator[RawHub]:
    with RawHub(dict(FILES)) as made:
        yield made


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HAUL_CONFIG", "")
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "0")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def get(*argv: str | Path) -> tuple[int, str, str]:
        code = cli.main(["get", *map(str, argv)])
        said = capfd.readouterr()
        return code, said.out, said.err

    return get


def _tuned(server: RawHub, *, drop: tuple[str, ...] = (), **headers: str) -> None:
    def tune(answer: RawAnswer) -> None:
        for name in drop:
            answer.set(name, None)
        for name, value in headers.items():
            answer.set(name.replace("_", "-"), value)

    server.tune = tune


def test_several_files_go_into_one_folder_and_their_paths_are_printed_in_order(
    server: RawHub, run: Run
) -> None:
    urls = [server.file_url(path) for path in FILES]
    code, out, err = run(*urls, "--dir", "new/folder", "--progress", "none")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["new/folder/a.bin", "new/folder/b.txt", "new/folder/d.txt"]
    assert [Path(line).read_bytes() for line in out.splitlines()] == list(FILES.values())


def test_one_failure_does_not_stop_the_others_and_gives_its_code(server: RawHub, run: Run) -> None:
    code, out, err = run(*(server.file_url(path) for path in ("a.bin", "not-there.bin", "b.txt")), "-q")
    assert (code, out.splitlines()) == (3, ["a.bin", "b.txt"])
    assert "not-there.bin" in err


def test_of_several_failures_the_first_one_gives_the_code(server: RawHub, run: Run) -> None:
    wrong = f"{server.file_url('b.txt')} checksum=md5:{'0' * 32}"
    Path("list").write_text(f"{wrong}\n{server.file_url('nope')}\n", encoding="utf-8")
    assert run("-i", "list", "-q")[0] == 7
    Path("list").write_text(f"{server.file_url('nope')}\n{wrong}\n", encoding="utf-8")
    assert run("-i", "list", "-q")[0] == 3


def test_a_list_says_names_and_checksums(server: RawHub, run: Run) -> None:
    md5 = hashlib.md5(FILES["a.bin"], usedforsecurity=False).hexdigest()
    lines = [
        f"{server.file_url('a.bin')} checksum=md5:{md5} out=x/an a.bin",
        "# nothing",
        server.file_url("b.txt"),
    ]
    Path("list").write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = run("-i", "list", "-d", "to", "-q")
    assert (code, out.splitlines()) == (0, ["to/x/an a.bin", "to/b.txt"])
    assert Path("to/x/an a.bin").read_bytes() == FILES["a.bin"]


def test_a_wrong_line_is_said_before_anything_is_asked(server: RawHub, run: Run) -> None:
    Path("list").write_text(f"{server.file_url('b.txt')}\nwrong\n", encoding="utf-8")
    code, _, err = run("-i", "list")
    assert code == 2
    assert "list:2" in err
    assert server.asked == []


@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize(
    ("drop", "headers", "changed"),
    [
        pytest.param((), {}, {"ETag": '"v2"'}, id="by its etag"),
        pytest.param(
            ("ETag",),
            {"Last_Modified": "Sun, 01 Feb 2026 10:00:00 GMT"},
            {"Last_Modified": "Mon, 02 Feb 2026 10:00:00 GMT"},
            id="by its time",
        ),
    ],
)
def test_a_complete_file_is_not_fetched_twice_and_a_changed_one_is(
    server: RawHub, run: Run, monkeypatch: pytest.MonkeyPatch, drop: tuple[str, ...],
    headers: dict[str, str], changed: dict[str, str], *, attributes: bool,
) -> None:  # fmt: skip
    if not attributes:
        monkeypatch.setattr(download_notes, "_set_attribute", lambda _name, _note: False)
        monkeypatch.setattr(download_notes, "_attribute", lambda _name: "")
    url = server.file_url("b.txt")
    _tuned(server, drop=drop, **headers)
    assert run(url, "-q")[0] == 0
    before = server.sent
    code, out, _ = run(url, "--json", "-q")
    assert (code, json.loads(out)["files_reused"]) == (0, 1)
    assert server.sent - before <= 1, "one byte, by which the server is asked"
    server.files["b.txt"] = b"TEXT\n"  # of the same size
    _tuned(server, drop=drop, **{**headers, **changed})
    code, out, _ = run(url, "--json", "-q")
    assert (code, json.loads(out)["files_fetched"]) == (0, 1)
    assert Path("b.txt").read_bytes() == b"TEXT\n"


def test_a_file_that_somebody_changed_here_is_fetched_again(server: RawHub, run: Run) -> None:
    run(server.file_url("b.txt"), "-q")
    Path("b.txt").write_bytes(b"tampered\n"[:5])
    assert run(server.file_url("b.txt"), "-q")[0] == 0
    assert Path("b.txt").read_bytes() == FILES["b.txt"]


def test_a_file_with_the_right_checksum_is_there_without_a_question(server: RawHub, run: Run) -> None:
    Path("b.txt").write_bytes(FILES["b.txt"])
    sha1 = hashlib.sha1(FILES["b.txt"], usedforsecurity=False).hexdigest()
    assert run(server.file_url("b.txt"), "--checksum", f"sha1:{sha1}", "-q")[0] == 0
    assert server.asked == []


def test_what_is_there_is_fetched_anew_on_request(server: RawHub, run: Run) -> None:
    url = server.file_url("a.bin")
    run(url, "-q")
    before = server.sent
    assert run(url, "-q", "--force-download")[0] == 0
    assert server.sent - before >= len(FILES["a.bin"])


def test_other_bytes_than_the_checksum_says_are_not_kept(server: RawHub, run: Run) -> None:
    assert run(server.file_url("b.txt"), "--checksum", f"md5:{'0' * 32}", "-q")[0] == 7
    assert os.listdir() == []


@pytest.mark.skipif(os.name == "nt", reason="a device of POSIX")
def test_bytes_for_stdout_are_all_that_is_there(server: RawHub, here: Path) -> None:
    env = {**os.environ, "NO_PROXY": "*"}
    command = [
        sys.executable,
        "-m",
        "hf_haul.cli",
        "get",
        server.file_url("b.txt"),
        "-q",
        "-o",
        "/dev/stdout",
    ]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout == FILES["b.txt"]


# ---- names from servers


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        pytest.param('attachment; filename="from server.bin"', "from server.bin", id="a name"),
        pytest.param('attachment; filename="../../above.bin"', "above.bin", id="a folder above"),
        pytest.param("attachment", "b.txt", id="no name"),
    ],
)
def test_a_server_may_name_the_file_if_it_is_asked_to(
    server: RawHub, run: Run, here: Path, disposition: str, name: str
) -> None:
    _tuned(server, Content_Disposition=disposition)
    url = server.file_url("b.txt")
    assert run(url, "-q", "-d", "to/deep")[1] == "to/deep/b.txt\n"
    assert run(url, "-q", "-d", "as/told", "--content-disposition")[1] == f"as/told/{name}\n"
    assert sorted(os.listdir()) == ["as", "to"]
    assert os.listdir("as/told") == [name]


def test_a_server_may_not_choose_what_is_replaced(server: RawHub, run: Run) -> None:
    Path("mine.txt").write_bytes(b"mine")
    _tuned(server, Content_Disposition="attachment; filename=mine.txt")
    code, out, err = run(server.file_url("b.txt"), "--content-disposition", "-q")
    assert (code, out) == (6, "")
    assert "mine.txt exists and did not come from this URL" in err
    assert Path("mine.txt").read_bytes() == b"mine"


def test_a_file_that_its_server_named_is_there_the_next_time(server: RawHub, run: Run) -> None:
    _tuned(server, Content_Disposition="attachment; filename=named.txt")
    for state in ("fetched", "reused"):
        code, out, _ = run(server.file_url("b.txt"), "--content-disposition", "-q", "--json")
        assert (code, json.loads(out)["results"][0]["state"]) == (0, state)


def test_two_files_that_servers_call_the_same_do_not_replace_each_other(server: RawHub, run: Run) -> None:
    _tuned(server, Content_Disposition="attachment; filename=same.txt")
    code, out, err = run(server.file_url("b.txt"), server.file_url("c/d.txt"), "--content-disposition", "-q")
    assert (code, out) == (6, "same.txt\n")
    assert "would replace" in err
    assert Path("same.txt").read_bytes() == FILES["b.txt"]


def test_a_url_without_a_name_needs_one_from_its_server(server: RawHub, run: Run) -> None:
    server.files[""] = b"root"
    assert run(server.file_url(""), "-q")[0] == 2
    code, _, err = run(server.file_url(""), "-q", "--content-disposition")
    assert code != 0
    assert "say with -o what to call it" in err
    _tuned(server, Content_Disposition="attachment; filename=root.txt")
    assert run(server.file_url(""), "-q", "--content-disposition")[:2] == (0, "root.txt\n")


# ---- what is shown, and what is checked


def test_what_will_not_fit_is_said_before_the_first_byte(
    server: RawHub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=300_001))
    code, out, err = run(*(server.file_url(path) for path in ("a.bin", "b.txt")), "-q")
    assert (code, out) == (6, "")
    assert "Not enough disk space" in err
    assert server.sent <= 2, "one byte of each, by which its size is known"


def test_progress_as_json_is_events_and_nothing_else(server: RawHub, run: Run) -> None:
    code, _, err = run(server.file_url("a.bin"), server.file_url("nope"), "--progress", "json")
    events: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    for event in events:
        validate_event(event)
    assert code == 3
    kinds = [event["ev"] for event in events]
    assert (kinds[0], kinds[-1]) == ("plan", "error")
    assert (events[0]["files"], events[0]["bytes"]) == (2, len(FILES["a.bin"]))
    assert events[-1]["files_failed"] == 1
    assert (events[-1]["files_fetched"], events[-1]["fetched"]) == (1, len(FILES["a.bin"]))


def test_results_as_json_say_what_became_of_each(server: RawHub, run: Run) -> None:
    run(server.file_url("b.txt"), "-q")
    urls = [server.file_url(path) for path in ("a.bin", "b.txt", "nope")]
    code, out, _ = run(*urls, "--json", "-q")
    found = json.loads(out)
    assert code == 3
    assert [(each["state"], each["path"]) for each in found["results"]] == [
        ("fetched", "a.bin"),
        ("reused", "b.txt"),
        ("failed", "nope"),
    ]
    assert (found["files_fetched"], found["files_reused"], found["files_failed"]) == (1, 1, 1)
    assert (found["bytes_fetched"], found["bytes_reused"]) == (300_000, len(FILES["b.txt"]))
    assert found["results"][1]["etag"] == server.etag("b.txt")
    assert found["results"][2]["error"]["kind"] == "not_found"
    assert (found["error"]["kind"], found["exit_code"]) == ("not_found", 3)


def test_the_result_of_one_file_says_where_it_is(server: RawHub, run: Run) -> None:
    assert json.loads(run(server.file_url("b.txt"), "--json", "-q")[1])["path"] == "b.txt"
    assert json.loads(run(server.file_url("nope"), "--json", "-q")[1])["path"] is None


def test_secrets_of_a_url_are_in_nothing_that_is_shown(server: RawHub, run: Run) -> None:
    url = f"{server.file_url('nope')}?X-Amz-Signature=s3cret&X-Amz-Date=1".replace("//", "//me:s3cret@", 1)
    code, out, err = run(url, "--json", "--progress", "json", "-v")
    assert code == 3
    assert "s3cret" not in out + err


def test_a_server_without_ranges_is_not_asked_for_them(server: RawHub, run: Run) -> None:
    server.files["large.bin"] = b"z" * 40_000_000
    server.take_no_ranges = True
    code, out, err = run(server.file_url("large.bin"), "--progress", "json", "--json")
    assert (code, json.loads(out)["bytes_wasted"]) == (0, 0)
    assert [event for event in map(json.loads, err.splitlines()) if event["ev"] == "wait"] == []
    assert Path("large.bin").read_bytes() == server.files["large.bin"]
    assert server.count("cdn") == 2, "what it has, and the file"


def test_bytes_cannot_go_to_stdout_which_would_have_them_before_they_are_checked(
    run: Run, tmp_path: Path
) -> None:
    code, out, err = run("http://127.0.0.1:1/a.bin", "-o", "-")
    assert (code, out) == (2, "")
    assert "cannot write to stdout" in err
    assert list(tmp_path.iterdir()) == []
