"""What the README and the guides beside the examples say is so."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import huggingface_hub.errors
import pytest
from tests.benchmarks.__main__ import MODULES
from tests.support.hub import hub_environment, run_python, serve_repo
from tests.support.repos import contents
from tests.support.storage import left_behind
from tests.support.wants import NO_SKIP

import hf_haul
from hf_haul import errors
from hf_haul.cli import main
from hf_haul.config import Settings, setting_fields
from hf_haul.localhub import LocalHub, Repo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "examples/settings.md").read_text(encoding="utf-8")
#: What people read, by path.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("examples/*.md")), *sorted(ROOT.glob(".github/*.md")))
}


def _blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _command(name: str) -> str:
    found = re.findall(rf"^<!-- command: {name} -->\n```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_there_are_exactly_two_commands() -> None:
    assert re.findall(r"<!-- command: (\w+) -->", README) == ["main", "test"]


@pytest.mark.parametrize("name", ["main", "test"])
def test_a_command_is_a_whole_shell_program(name: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    checked = subprocess.run([bash, "-n", "-c", _command(name)], capture_output=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["main", "test"])
def test_ci_runs_the_commands_of_the_readme(name: str) -> None:
    assert f'$(command_of {name})"' in (ROOT / ".ci/run").read_text(encoding="utf-8")


def _snippet(word: str) -> str:
    found = [block for block in _blocks("python") if word in block]
    assert len(found) == 1
    return found[0]


def test_there_are_three_snippets() -> None:
    assert len(_blocks("python")) == 3


def test_the_snippet_for_a_repository_does_what_it_says(tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src", "org/model") as served:
        env = hub_environment(served.hub, tmp_path / "home")
        done = run_python(_snippet("snapshot_download") + "\nprint(folder)\n", env)
        assert done.returncode == 0, done.stderr
        assert contents(Path(done.stdout.strip())) == served.contents


def test_the_snippet_for_the_manager_does_what_it_says(tmp_path: Path) -> None:
    repo = Repo("org/any")
    repo.commit({"big.bin": b"big" * 1000}, "one file")
    with LocalHub(repo) as hub:
        snippet = _snippet("ParallelDownloadManager").replace(
            "https://example.org", f"{hub.url}/org/any/resolve/main"
        )
        done = run_python(
            f"import os; os.chdir({str(tmp_path)!r})\n{snippet}", hub_environment(hub, tmp_path / "home")
        )
        assert done.returncode == 0, done.stderr
    assert "'success': True" in done.stdout
    assert (tmp_path / "big.bin").read_bytes() == b"big" * 1000


def test_the_snippet_for_a_url_does_what_it_says(tmp_path: Path) -> None:
    repo = Repo("org/data", "dataset")
    repo.commit({"train.csv": b"a,b\n1,2\n3,4\n"}, "one file")
    with LocalHub(repo) as hub:
        env = hub_environment(hub, tmp_path / "home")
        done = run_python(_snippet("haul://") + "\nprint(frame.to_dict('list'))\n", env)
    assert done.stdout == "{'a': [1, 3], 'b': [2, 4]}\n", done.stderr


def test_the_snippet_about_left_overs_does_what_it_says(tmp_path: Path) -> None:
    (snippet,) = _blocks("python", PAGES["examples/left-overs.md"])
    with LocalHub() as hub:
        env = hub_environment(hub, tmp_path / "home")
    left_behind(tmp_path / "home/hub/models--org--name/blobs", key="ab" * 32)
    done = run_python(snippet, env)
    assert done.stdout.splitlines() == [
        "org/name None 40.0 dead hf-haul download org/name",
        "org/name partial 0",
        "0 0 ['it has changed 1 minute ago']",
    ], done.stderr


def test_the_snippet_about_before_and_after_does_what_it_says(tmp_path: Path) -> None:
    repo = Repo("org/model")
    files = {"model.safetensors": b"w" * 2000, "pytorch_model.bin": b"w" * 3000, "config.json": b"{}"}
    repo.commit(files, "weights in two formats")
    (snippet,) = _blocks("python", PAGES["examples/before-and-after.md"])
    with LocalHub(repo) as hub:
        env = hub_environment(hub, tmp_path / "home")
        fetched = run_python('import hf_haul; hf_haul.snapshot_download("org/model")', env)
        assert fetched.returncode == 0, fetched.stderr
        file = tmp_path / f"home/hub/models--org--model/snapshots/{repo.head.id}/config.json"
        file.resolve().write_bytes(b"[]")
        done = run_python(snippet, env)
    assert done.stdout.splitlines() == [
        "0 2002 1 0.0 True",
        "{'ok': 2, 'wrong': 1, 'missing': 0, 'unknown': 0, 'extra': 0} ['config.json']",
    ], done.stderr


def _hf_haul_lines() -> list[str]:
    blocks = [block for text in PAGES.values() for block in _blocks("bash", text)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("hf-haul ")]
    assert len(lines) >= 6
    return lines


@pytest.mark.parametrize("line", _hf_haul_lines())
def test_the_command_knows_the_options_shown(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = set(re.findall(r" (--?[a-z][a-z0-9-]*)", line.partition("#")[0]))
    with pytest.raises(SystemExit) as over:
        main([line.split()[1], "--help"])
    assert over.value.code == 0
    assert shown <= set(re.findall(r"--?[a-z][a-z0-9-]*", capsys.readouterr().out))


@pytest.mark.parametrize(
    "name", sorted({name for text in PAGES.values() for name in re.findall(r"\bhf_haul\.(\w+)", text)})
)
def test_every_name_shown_exists(name: str) -> None:
    assert name in {*hf_haul.__all__, "cluster", "localhub"}


def _table(text: str) -> dict[str, str]:
    """Variables and their defaults."""
    return {
        name: default.strip()
        for name, default in re.findall(r"^\| `(HF_HAUL_\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    }


def test_the_table_of_settings_has_every_one_with_its_default() -> None:
    rows = _table(SETTINGS)
    assert list(rows) == [f"HF_HAUL_{field.name.upper()}" for field in setting_fields()]
    given = {name: value for name, value in rows.items() if value != "none"}
    assert Settings.from_environment(given) == Settings()
    unset = {name.removeprefix("HF_HAUL_").lower() for name in rows.keys() - given.keys()}
    assert unset == {
        field.name for field in setting_fields() if getattr(Settings(), field.name) in {None, ()}
    }


def test_the_table_of_settings_names_the_short_forms() -> None:
    changed = Settings.from_environment({"HF_HAUL_MAX_BANDWIDTH": "1MB/s", "HF_HAUL_MAX_CONNECTIONS": "7"})
    assert (changed.max_bandwidth_bps, changed.max_concurrent_downloads) == (1_000_000, 7)
    assert "short: `HF_HAUL_MAX_BANDWIDTH`" in SETTINGS
    assert "short: `HF_HAUL_MAX_CONNECTIONS`" in SETTINGS


def test_the_settings_of_the_readme_have_the_defaults_of_the_whole_table() -> None:
    rows = _table(README)
    assert rows
    given = {name: value for name, value in rows.items() if value != "none"}
    assert Settings.from_environment(given) == Settings()


def test_every_variable_that_the_code_names_is_in_the_guide_to_settings() -> None:
    src = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    described = {*re.findall(r"HF_HAUL_\w+", SETTINGS), NO_SKIP}
    assert set(re.findall(r"\bHF_HAUL_[A-Z_]*[A-Z]", src)) - described == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_a_page_names_exists(page: str) -> None:
    known = {*re.findall(r"HF_HAUL_\w+", SETTINGS), NO_SKIP}
    assert set(re.findall(r"\bHF_HAUL_[A-Z_]*[A-Z]", PAGES[page])) - known == set()


def test_every_error_of_the_troubleshooting_exists() -> None:
    named = set(re.findall(r"`(\w+(?:Error|Warning))`", README))
    assert len(named) > 5
    ours = {*errors.__all__, *hf_haul.__all__}
    assert {name for name in named - ours if not hasattr(huggingface_hub.errors, name)} == set()


def test_the_figures_are_of_benchmarks_that_can_be_run() -> None:
    rows = re.findall(r"^\| .* MB/s \|.*$|^\| .* files/s \|.*$", README, re.MULTILINE)
    assert len(rows) >= 4
    assert {row.rstrip(" |").rpartition("`")[0].rpartition("`")[2] for row in rows} <= set(MODULES)


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page, target)
        for page, text in PAGES.items()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    ],
)
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    assert ((ROOT / page).parent / target).exists()


def test_the_arguments_that_only_we_have_are_all_named() -> None:
    ours = set(inspect.signature(hf_haul.snapshot_download).parameters)
    theirs = set(inspect.signature(huggingface_hub.snapshot_download).parameters)
    (said,) = re.findall(
        r"^Arguments that huggingface_hub does not have: (.*?)\.$", README, re.DOTALL | re.MULTILINE
    )
    named = re.findall(r"`(\w+)`", said)  # a value of one is in quotes, too
    assert sorted(named) == sorted(ours - theirs)
