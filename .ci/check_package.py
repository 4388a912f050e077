"""Check an installed hf-haul: ``python check_package.py SDIST``, by the Python that has its wheel.

Nothing of the source tree may be on the path: what is missing in the package would be found there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

COMMAND = Path(sysconfig.get_path("scripts")) / ("hf-haul.exe" if os.name == "nt" else "hf-haul")
#: Of the source distribution: what whoever packages hf-haul builds and tests it from.
IN_SDIST = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "src/hf_haul/py.typed", "tests/conftest.py",
            "examples/quickstart.py", ".ci/run", ".ci/completions.py", ".github/CONTRIBUTING.md")  # fmt: skip
EXTRAS = {"serve", "test", "examples", "loaders", "benchmarks", "docs", "dev"}
SHARED = (
    "bash-completion/completions/hf-haul",
    "zsh/site-functions/_hf-haul",
    "fish/vendor_completions.d/hf-haul.fish",
)
#: Runs where huggingface_hub is all that a program knows.
PROGRAM = """
import huggingface_hub, os, sys
print(huggingface_hub.snapshot_download("org/model", cache_dir=sys.argv[1]))
assert sys.modules["hf_haul"].accelerate.installed
"""


def run(*argv: str | Path, **variables: str) -> str:
    """Run something, which has to succeed; return what it printed."""
    done = subprocess.run(  # noqa: S603  our own words
        list(map(str, argv)), env={**os.environ, "HF_HAUL_CONFIG": "", **variables},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_metadata() -> None:
    """What the package says of itself."""
    import hf_haul

    assert Path(hf_haul.__file__).is_relative_to(sysconfig.get_path("purelib")), hf_haul.__file__
    found = importlib.metadata.distribution("hf-haul")
    assert found.version == hf_haul.__version__
    assert set(found.metadata.get_all("Provides-Extra") or ()) >= EXTRAS, "an extra is missing"
    assert found.metadata["License-Expression"] == "Apache-2.0"
    assert any(path.name == "LICENSE" for path in found.files or ()), "no license"
    assert hf_haul.__version__ in run(COMMAND, "--version")


def check_data() -> None:
    """What is no code."""
    package = importlib.resources.files("hf_haul")
    assert package.joinpath("py.typed").is_file()
    assert json.loads(package.joinpath("events.schema.json").read_text(encoding="utf-8"))["$defs"]
    for name in SHARED:
        path = Path(sysconfig.get_path("data"), "share", name)
        assert path.is_file(), path
    for shell in ("bash", "zsh", "fish"):
        assert "hf-haul" in run(COMMAND, "completion", shell)
    assert run(COMMAND, "help", "get").startswith("NAME")


def check_downloads(folder: Path) -> None:
    """A repository of a local Hub (extra ``serve``), through each door."""
    import fsspec

    from hf_haul.localhub import LocalHub, Repo

    (folder / "src").mkdir()
    (folder / "src/a.txt").write_bytes(b"a\n" * 1000)
    with LocalHub(Repo.from_folder(folder / "src", "org/model")) as hub:
        hub_of = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        printed = run(COMMAND, "download", "org/model", "-q", **hub_of).strip()
        assert Path(printed, "a.txt").read_bytes() == b"a\n" * 1000
        printed = run(
            COMMAND, "get", f"{hub.url}/org/model/resolve/main/a.txt", "-d", folder / "got", "-q"
        ).strip()
        assert Path(printed).read_bytes() == b"a\n" * 1000
        program = [sys.executable, "-c", PROGRAM, folder / "cache"]
        printed = run(COMMAND, "run", "-q", "--", *program, **hub_of).strip()
        assert Path(printed, "a.txt").read_bytes() == b"a\n" * 1000
        with fsspec.open("haul://org/model/a.txt", endpoint=hub.url) as file:
            assert file.read() == b"a\n" * 1000


def check_sdist(path: Path) -> None:
    """What the source distribution holds."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(IN_SDIST) - names
    assert not missing, f"not in {path.name}: {sorted(missing)}"
    strange = {name for name in names if "__pycache__" in name or name.endswith((".pyc", ".whl"))}
    assert not strange, f"in {path.name}: {sorted(strange)}"


def main() -> None:
    """Check everything."""
    os.environ.update(NO_PROXY="*", HF_HAUL_CONFIG="")
    check_sdist(Path(sys.argv[1]))
    check_metadata()
    check_data()
    with tempfile.TemporaryDirectory() as folder:
        check_downloads(Path(folder))
    print(f"hf-haul {importlib.metadata.version('hf-haul')}: wheel and sdist are complete")


if __name__ == "__main__":
    main()
