"""The command as a process of its own, against a local Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from tests.support.hub import ServedRepo, hub_environment, serve_repo
from tests.support.repos import contents
from tests.support.wants import do_without, want_program

from hf_haul.localhub import Account
from hf_haul.localhub.testing.faults import Stall

COMMAND = [sys.executable, "-W", "error", "-m", "hf_haul.cli"]


def _run(env: dict[str, str], *args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "src") as repo:
        yield repo


@pytest.fixture
def env(served: ServedRepo, tmp_path: Path) -> dict[str, str]:
    return hub_environment(served.hub, tmp_path / "home")


def test_download_prints_the_snapshots_folder_and_nothing_else(
    served: ServedRepo, env: dict[str, str]
) -> None:
    done = _run(env, "download", "org/tiny")
    assert (done.returncode, done.stderr) == (0, "")
    folder = Path(done.stdout.removesuffix("\n"))
    assert folder.name == served.repo.head.id
    assert contents(folder) == served.contents


def test_download_of_one_file_into_a_folder(served: ServedRepo, env: dict[str, str], tmp_path: Path) -> None:
    done = _run(env, "download", "org/tiny", "nested/one/also.json", "--local-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.removesuffix("\n")) == tmp_path / "out/nested/one/also.json"
    assert contents(tmp_path / "out")["nested/one/also.json"] == served.contents["nested/one/also.json"]


def test_download_of_a_folder_leaves_the_rest(served: ServedRepo, env: dict[str, str]) -> None:
    done = _run(env, "download", "org/tiny", "nested/one/")
    assert done.returncode == 0, done.stderr
    expected = {name: digest for name, digest in served.contents.items() if name.startswith("nested/one/")}
    assert contents(Path(done.stdout.removesuffix("\n"))) == expected


def test_a_dry_run_writes_nothing(served: ServedRepo, env: dict[str, str]) -> None:
    done = _run(env, "download", "org/tiny", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"[dry-run] Will download {len(served.contents)} files")
    assert contents(Path(env["HF_HOME"])) == {}


def test_an_unknown_repository_is_one_message(env: dict[str, str]) -> None:
    done = _run(env, "download", "org/nobody")
    assert done.returncode == 3
    assert done.stdout == ""
    first, *below = done.stderr.splitlines()
    assert first == "hf-haul: error: Repository org/nobody does not exist, or may not be seen without a token"
    assert any(line.startswith("  request id: Root=1-") for line in below)


@pytest.mark.parametrize("endpoint", ["", "hub.test:8080", "https://"])
def test_an_endpoint_that_is_no_url_is_one_message(env: dict[str, str], endpoint: str) -> None:
    done = _run({**env, "HF_ENDPOINT": endpoint}, "download", "org/tiny")
    assert done.returncode == 2
    first, hint = done.stderr.splitlines()
    assert first.startswith("hf-haul: error: HF_ENDPOINT, the Hub's URL, is not an http(s) URL: ")
    assert hint == "  Unset it, or set it to one such as https://huggingface.co"


@pytest.mark.skipif(os.name == "nt", reason="no signals for a process of its own")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["download", "get"])
def test_an_interrupt_ends_it_within_two_seconds_and_the_next_call_goes_on(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    with serve_repo(tmp_path / "src", shards=1, shard_bytes=4_000_000) as served:
        env = hub_environment(served.hub, tmp_path / "home")
        name = "model-00001-of-00001.safetensors"
        arguments = {
            "download": ["download", "org/tiny", name],
            "get": ["get", f"{served.hub.url}/org/tiny/resolve/main/{name}", "-o", str(tmp_path / "home/it")],
        }[command]
        _interrupt(served, env, arguments, name, number)
        served.hub.faults.clear()
        served.hub.requests.clear()
        done = _run(env, *arguments)
        assert done.returncode == 0, done.stderr
        assert served.hub.requests.body_bytes < 2_000_000, "what was fetched is not fetched again"
    arrived = Path(done.stdout.removesuffix("\n")).read_bytes()
    assert hashlib.sha256(arrived).hexdigest() == served.contents[name]


def _interrupt(
    served: ServedRepo, env: dict[str, str], arguments: list[str], name: str, number: signal.Signals
) -> None:
    stall = served.hub.faults.add(Stall(after=3_500_000), kind="cdn", path=name, times=None)
    with subprocess.Popen(
        [*COMMAND, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert stall.wait(30)
            assert _grows_to(Path(env["HF_HOME"]), 2_000_000)
            start = time.monotonic()
            process.send_signal(number)
            assert process.stderr is not None
            assert process.stdout is not None
            err = process.stderr.readline()  # comes when all waiting is over
            seconds = time.monotonic() - start
            process.wait(10)  # the interpreter's own end takes its time on a busy machine
            out, err = process.stdout.read(), err + process.stderr.read()
        finally:
            process.kill()
    how, code = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("ended by a signal", 143)}[number]
    assert process.returncode == code
    assert seconds < 2
    assert out == ""
    assert err == f"hf-haul: {how}; what was fetched is kept, and the same command goes on from there\n"


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_sigterm_ends_it_also_where_it_is_the_first_process_of_a_container(tmp_path: Path) -> None:
    """The kernel ignores a signal there that has no handler."""
    unshare = [want_program("unshare"), "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        do_without("this user may not make namespaces")
    with serve_repo(tmp_path / "src", shards=1, shard_bytes=4_000_000) as served:
        env = hub_environment(served.hub, tmp_path / "home")
        name = "model-00001-of-00001.safetensors"
        stall = served.hub.faults.add(Stall(after=3_500_000), kind="cdn", path=name, times=None)
        with subprocess.Popen(
            [*unshare, *COMMAND, "download", "org/tiny", name],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as outer:  # fmt: skip
            try:
                assert stall.wait(30)
                assert _grows_to(Path(env["HF_HOME"]), 2_000_000)
                inner = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
                os.kill(inner, signal.SIGTERM)
                _, err = outer.communicate(timeout=20)
            finally:
                outer.kill()
        assert outer.returncode == 143
        assert "ended by a signal; what was fetched is kept" in err
        assert _grows_to(Path(env["HF_HOME"]), 2_000_000)


# ---- nobody reads


@pytest.mark.skipif(os.name == "nt", reason="a shell's pipes")
@pytest.mark.parametrize(
    "line",
    ["download org/tiny", "download -r org/tiny --json", "download org/tiny --dry-run", "--help", "env"],
)
def test_a_pipe_that_nobody_reads_is_no_error(line: str, env: dict[str, str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *line.split()],
        env=env,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="a shell's pipes")
@pytest.mark.parametrize("closed", ["pipe", "altogether"])
def test_stderr_that_nobody_reads_is_no_error(closed: str, env: dict[str, str], served: ServedRepo) -> None:
    env.pop("HF_HUB_DISABLE_PROGRESS_BARS")
    line = shlex.join([*COMMAND, "download", "org/tiny", "-v"])
    shell = f"exec {line} 2>&-" if closed == "altogether" else f"{{ {line} 3>&1 >&2 2>&3 | true; }} 2>&1"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert contents(Path(done.stdout.removesuffix("\n"))) == served.contents


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device to write to")
def test_a_result_that_cannot_be_written_is_an_error(env: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "download", "org/tiny"],
            env=env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 6
    assert done.stderr.splitlines()[0] == "hf-haul: error: No space is left on the disk"


def _grows_to(folder: Path, nbytes: int) -> bool:
    """Whether a staged file gets that many bytes on disk, in good time."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in folder.rglob("*.incomplete*"):
            if path.stat().st_blocks * 512 >= nbytes:
                return True
        time.sleep(0.02)
    return False


# ---- get


def test_get_checks_what_it_is_told(served: ServedRepo, env: dict[str, str], tmp_path: Path) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/vocab.txt"
    done = _run(env, "get", url, "--sha256", served.contents["vocab.txt"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "vocab.txt\n", "")
    assert hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest() == served.contents["vocab.txt"]


def test_get_refuses_other_bytes(served: ServedRepo, env: dict[str, str], tmp_path: Path) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/vocab.txt"
    done = _run(env, "get", url, "--sha256", "0" * 64, "-o", tmp_path / "out.txt")
    assert done.returncode == 7
    assert done.stdout == ""
    assert "digest does not match" in done.stderr
    assert not (tmp_path / "out.txt").exists()


def test_get_says_what_the_server_said(served: ServedRepo, env: dict[str, str], tmp_path: Path) -> None:
    done = _run(env, "get", f"{served.hub.url}/org/tiny/resolve/main/nothing.bin?sig=secret", cwd=tmp_path)
    assert done.returncode == 3
    assert "404" in done.stderr
    assert "secret" not in done.stderr
    assert list(tmp_path.glob("nothing*")) == []


def test_get_sends_headers_to_the_urls_own_origin_only(tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src", accounts=[Account("ann", "hf_ann")]) as served:
        env = hub_environment(served.hub, tmp_path / "home")
        url = f"{served.hub.url}/org/tiny/resolve/main/model-00001-of-00002.safetensors"
        done = _run(env, "get", url, "-H", "Authorization: Bearer hf_ann", "-H", "X-Odd: 1", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        asked, bytes_from = list(served.hub.requests.of("resolve")), list(served.hub.requests.of("cdn"))
    assert {(request.token, request.headers.get("x-odd")) for request in asked} == {("Bearer hf_ann", "1")}
    assert {(request.token, request.headers.get("x-odd")) for request in bytes_from} == {(None, None)}


# ---- serve


def test_serve_shares_a_cache_that_download_can_use(
    served: ServedRepo, env: dict[str, str], tmp_path: Path
) -> None:
    first = _run(env, "download", "org/tiny")
    assert first.returncode == 0, first.stderr
    cache = Path(env["HF_HOME"], "hub")
    with subprocess.Popen(
        [*COMMAND, "serve", str(cache), "--port", "0"],
        env={**env, "XDG_CACHE_HOME": str(tmp_path / "digests")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            second = _run(
                {**env, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "other")}, "download", "org/tiny"
            )
            if os.name != "nt":
                server.send_signal(signal.SIGINT)
                server.communicate(timeout=10)
                assert server.returncode == 0
        finally:
            server.kill()
    assert second.returncode == 0, second.stderr
    assert contents(Path(second.stdout.removesuffix("\n"))) == served.contents


# ---- as an extension of hf


@pytest.mark.skipif(os.name == "nt", reason="a script without .exe cannot be started")
def test_hf_haul_is_an_extension_of_hf(env: dict[str, str], tmp_path: Path) -> None:
    hf = Path(sys.executable).with_name("hf")
    if not hf.exists():
        do_without("huggingface_hub's command is not next to this Python")
    folder = tmp_path / "user/.local/share/hf/extensions/hf-haul"
    folder.mkdir(parents=True)
    script = folder / "hf-haul"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom hf_haul.cli import main\nsys.exit(main())\n", encoding="utf-8"
    )
    script.chmod(0o755)
    manifest = {
        "owner": "someone", "repo": "hf-haul", "repo_id": "someone/hf-haul", "short_name": "haul", "type": "python",
        "executable_path": str(script), "installed_at": datetime.now(timezone.utc).isoformat(),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = subprocess.run(
        [hf, "haul", "download", "org/tiny", "config.json"],
        env={**env, "HOME": str(tmp_path / "user"), "HF_HUB_DISABLE_UPDATE_CHECK": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.removesuffix("\n")).name == "config.json"


def test_the_console_script_is_installed() -> None:
    script = shutil.which("hf-haul", path=str(Path(sys.executable).parent))
    if script is None:
        do_without("hf-haul is not installed here, only on the path")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("hf-haul ")
