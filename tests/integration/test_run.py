"""``hf-haul run``: programs that know nothing of it, and their children, download on our engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.hub import SRC, ServedRepo, hub_environment, serve_repo
from tests.support.repos import contents
from tests.support.wire import until

RUN = [sys.executable, "-m", "hf_haul.cli", "run"]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of POSIX")

#: Downloads, and says on whose engine that happened.
WORK = """
import os, sys
from huggingface_hub import snapshot_download

def work(name):
    assert "hf_haul.hub" not in sys.modules, "nothing is imported before it is needed"
    folder = snapshot_download("org/tiny", cache_dir=os.path.join(os.environ["CACHES"], name))
    engine = "hf_haul" in sys.modules and sys.modules["hf_haul"].accelerate.installed
    print(name, "ours" if engine else "theirs", folder, flush=True)

def frame(name):
    import fsspec, pandas
    rows = len(pandas.read_parquet("hf://datasets/org/rows/t.parquet"))
    print(name, type(fsspec.filesystem("hf")).__module__, rows, flush=True)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "src") as repo:
        yield repo


@pytest.fixture
def env(served: ServedRepo, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "caches").mkdir()
    return hub_environment(served.hub, tmp_path / "home", CACHES=str(tmp_path / "caches"))


def _run(env: dict[str, str], *argv: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *map(str, argv)], env=env, cwd=cwd, capture_output=True, text=True, timeout=90, check=False
    )


def _program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(WORK + textwrap.dedent(text), encoding="utf-8")
    return path


@posix
def test_downloads_of_a_program_and_of_all_its_children_are_ours(
    served: ServedRepo, env: dict[str, str], tmp_path: Path
) -> None:
    program = _program(
        tmp_path,
        """
        import multiprocessing, subprocess

        if __name__ == "__main__":
            for how in ("fork", "spawn", "forkserver"):
                child = multiprocessing.get_context(how).Process(target=work, args=(how,))
                child.start()
                child.join()
                assert child.exitcode == 0, how
            subprocess.run([sys.executable, "-c", "import program; program.work('program')"], check=True)
            work("itself")
            child = multiprocessing.get_context("fork").Process(target=print, args=("after", os.getppid() > 0))
            child.start()
            child.join()
        """,
    )
    done = _run(env, "--", sys.executable, program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "after True"
    found = [line.split(" ", 2) for line in lines[:-1]]
    assert [name for name, _, _ in found] == ["fork", "spawn", "forkserver", "program", "itself"]
    assert {engine for _, engine, _ in found} == {"ours"}
    assert all(contents(Path(folder)) == served.contents for _, _, folder in found)
    assert [line for line in done.stderr.splitlines() if "hf-haul" in line] == [
        f"hf-haul: on for {sys.executable} and its children: downloads of huggingface_hub, and hf:// URLs"
    ]


def test_hf_urls_are_read_by_our_filesystem_in_children_too(env: dict[str, str], tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    pq.write_table(pa.table({"a": list(range(1000))}), rows / "t.parquet")
    program = _program(
        tmp_path,
        """
        import multiprocessing

        if __name__ == "__main__":
            child = multiprocessing.get_context("spawn").Process(target=frame, args=("spawn",))
            child.start()
            child.join()
            frame("itself")
        """,
    )
    with serve_repo(rows, "org/rows", "dataset") as served:
        done = _run({**env, "HF_ENDPOINT": served.hub.url}, "-q", "--", sys.executable, program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert found == [[name, "hf_haul.filesystem.registration", "1000"] for name in ("spawn", "itself")]
    assert done.stderr == ""


def test_threads_that_download_first_at_the_same_moment_are_all_served(
    env: dict[str, str], tmp_path: Path
) -> None:
    program = _program(
        tmp_path,
        """
        from concurrent.futures import ThreadPoolExecutor
        from huggingface_hub import hf_hub_download

        cache = os.path.join(os.environ["CACHES"], "t")
        names = ["config.json", "vocab.txt", "nested/one/also.json"]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: hf_hub_download("org/tiny", name, cache_dir=cache), names))
        import hf_haul
        print("threads", hf_haul.accelerate.installed)
        """,
    )
    done = _run(env, "-q", sys.executable, program)
    assert (done.stdout, done.stderr) == ("threads True\n", ""), done.stderr


def test_a_program_that_downloads_nothing_imports_nothing_of_ours(env: dict[str, str]) -> None:
    code = (
        "import json, sys; print(json.dumps([n for n in sys.modules if n.startswith(('hf_haul', 'fsspec'))]))"
    )
    done = _run(env, "-q", "--", sys.executable, "-c", code)
    assert json.loads(done.stdout) == [], done.stderr


def test_somebodys_own_sitecustomize_runs_too(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins; builtins.mine = __file__\n", encoding="utf-8"
    )
    theirs = {**env, "PYTHONPATH": os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])}
    code = "import sys, sitecustomize; print(mine, sitecustomize.__file__, *sys.path, sep='\\n')"
    done = _run(theirs, "-q", "--", sys.executable, "-c", code)
    own = str(tmp_path / "sitecustomize.py")
    mine, module, *path = done.stdout.splitlines()
    assert (mine, module) == (own, own), done.stderr
    assert not any("startup" in each for each in path)


def test_an_error_in_somebodys_own_sitecustomize_is_theirs(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import not_there\n", encoding="utf-8")
    theirs = {**env, "PYTHONPATH": os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])}
    plain = subprocess.run(
        [sys.executable, "-c", "print(1)"], env=theirs, capture_output=True, text=True, check=False
    )
    done = _run(theirs, "-q", "--", sys.executable, "-c", "print(1)")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    assert "not_there" in done.stderr


def test_a_run_within_a_run_is_one(env: dict[str, str]) -> None:
    code = "import os; print(os.environ['PYTHONPATH'].count('startup'))"
    done = _run(env, "-q", "--", *RUN, "-q", "--", sys.executable, "-c", code)
    assert done.stdout == "1\n", done.stderr


def test_a_python_without_hf_haul_runs_the_program_and_says_so_once(
    env: dict[str, str], tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = (
        "import subprocess, sys; print('ran'); subprocess.run([sys.executable, '-c', 'print(2)'], check=True)"
    )
    # From a folder of its own: the command finds hf_haul by it, the program does not.
    startup = f"import sys; sys.path.insert(0, {str(SRC)!r}); from hf_haul.cli import main; sys.exit(main())"
    without = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", startup, "run", "-q", "--", str(python), "-c", code],
        env=without, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["2", "ran"]), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hf-haul: {python} has no hf_haul, so the program runs without it; ")


def test_settings_of_the_command_reach_the_program(env: dict[str, str]) -> None:
    code = "from hf_haul import Settings as S; s = S.from_environment(); print(s.max_bandwidth_bps, s.max_concurrent_downloads)"
    limits = ["--max-bandwidth", "5MB/s", "--max-connections", "3"]
    done = _run(env, "-q", *limits, sys.executable, "-c", code)
    assert done.stdout == "5000000 3\n", done.stderr


# ---- how it ends


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_programs(env: dict[str, str], code: int) -> None:
    assert _run(env, "-q", "--", sys.executable, "-c", f"raise SystemExit({code})").returncode == code


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_program(env: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    code = f"""if 1:
        import signal, sys, time
        signal.signal({int(number)}, lambda *_: sys.exit(42))
        open({str(tmp_path / "ready")!r}, "w").close()
        while True:
            time.sleep(0.05)
    """
    with subprocess.Popen([*RUN, "-q", "--", sys.executable, "-c", code], env=env) as process:
        until(lambda: (tmp_path / "ready").exists() or process.poll() is not None, "the program")
        process.send_signal(number)
        assert process.wait(30) == 42


@posix
def test_a_signal_that_ends_the_program_is_what_the_shell_sees(env: dict[str, str]) -> None:
    done = _run(env, "-q", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)")
    assert done.returncode == -signal.SIGTERM  # 143 of a shell


@posix
def test_pipes_break_for_the_program_as_they_do_without_us(env: dict[str, str]) -> None:
    shell = f"{sys.executable} -m hf_haul.cli run -q -- yes | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["y", str(128 + signal.SIGPIPE)], done.stderr


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(
            ["--", "no-such-program"], 127, "There is no program 'no-such-program' on PATH", id="not on PATH"
        ),
        pytest.param(["./no-such-program"], 127, "There is no program './no-such-program'", id="no file"),
        pytest.param(["./a.py"], 126, "to run it: hf-haul run -- python ./a.py", id="a Python file"),
        pytest.param(["./broken"], 126, "broken", id="not a program"),
        pytest.param([], 2, "name a program", id="nothing"),
        pytest.param(["--wrong", "x"], 2, "no such option: --wrong", id="no option of ours"),
    ],
)
def test_what_cannot_be_run_is_said(
    env: dict[str, str], tmp_path: Path, argv: list[str], code: int, said: str
) -> None:
    (tmp_path / "a.py").write_text("print(1)\n", encoding="utf-8")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF no program")
    broken.chmod(0o755)
    done = _run(env, "-q", *argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
