"""Runs huggingface_hub's own tests against our functions.

Fetches the sdist of the huggingface_hub that is installed, with pip, and runs the tests of downloads in it on local
Hubs, twice at once: through upstream's functions, which shows what the rig can run at all, and through ours. A test that passes
through upstream's has to pass through ours, unless ``sdist/left_out.py`` says why not. Nothing is kept.

    python tests/peers/run_sdist_suites.py [--keep DIR] [TEST_FILE ...]

Needs the extra ``test`` and a package index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from sdist.left_out import LEFT_OUT, NOT_ON_RIG

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUITES = (
    "test_snapshot_download.py",
    "test_file_download.py",
    "test_cache_layout.py",
    "test_cache_no_symlinks.py",
    "test_local_folder.py",
    "test_tree_cache.py",
    "test_shared_blobs.py",
    "test_offline_utils.py",
)
#: What the sdist's tests need besides the test files.
HELPERS = ("testing_constants.py", "testing_utils.py")
MARKERS = ("api", "transfer", "inference", "xet", "no_xet", "production", "deprecated", "git_lfs")


def fetch(release: str, into: Path) -> Path:
    """Fetch the sdist, and return its tests."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         f"huggingface_hub=={release}", "--dest", str(into)],
        check=True,
    )  # fmt: skip
    (archive,) = into.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if m.isfile() and Path(m.name).parts[1:2] == ("tests",)]
        for member in wanted:
            member.name = Path(*Path(member.name).parts[1:]).as_posix()
            tar.extract(member, into, filter="data")
    return into / "tests"


def run(tests: Path, suites: list[str], door: str) -> dict[str, str]:
    """Run the suites through a door, and return the outcome of each test."""
    report = tests.parent / f"{door}.xml"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HAUL_DOOR": door,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider",
         "-c", "pytest.ini", "--tb=short", "--durations=5", f"--junitxml={report}", *(f"tests/{name}" for name in suites)],
        cwd=tests.parent,
        env=environment,
        timeout=900,
        check=False,
        stdout=(tests.parent / f"{door}.log").open("w"),
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    if not report.exists():
        raise SystemExit((tests.parent / f"{door}.log").read_text())
    outcomes: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name')}".removeprefix("tests.")
        kinds = {child.tag for child in case}
        outcomes[name] = (
            "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        )
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", default=SUITES, help="test files of the sdist")
    parser.add_argument("--keep", type=Path, help="work here and leave everything there")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="sdist-"))
    work.mkdir(parents=True, exist_ok=True)
    release = version("huggingface_hub")
    try:
        tests = work / "tests"
        if not tests.is_dir():
            tests = fetch(release, work)
        shutil.copy(HERE / "sdist" / "rig.py", tests / "conftest.py")
        (tests / "__init__.py").touch()
        markers = "".join(f"    {name}: of huggingface_hub\n" for name in MARKERS)
        (work / "pytest.ini").write_text(f"[pytest]\ntimeout = 120\nmarkers =\n{markers}")
        suites = [name for name in options.suites if (tests / name).is_file()]
        with ThreadPoolExecutor(2) as doors:  # the tests wait more than they work
            upstream, ours = doors.map(lambda door: run(tests, suites, door), ("upstream", "ours"))
    finally:
        if options.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    return judge(release, upstream, ours)


def reason_for(name: str, reasons: Mapping[str, str] = LEFT_OUT) -> str | None:
    for end, reason in reasons.items():
        if name.endswith(end) or name.partition("[")[0].endswith(end):
            return reason
    return None


def judge(release: str, upstream: dict[str, str], ours: dict[str, str]) -> int:
    """Print what happened; 0 if ours pass wherever upstream's do, or a reason is given."""
    able = [name for name, outcome in upstream.items() if outcome == "passed"]
    passed = [name for name in able if ours.get(name) == "passed"]
    left_out = {name: reason for name in able if name not in passed and (reason := reason_for(name))}
    broken = [name for name in able if name not in passed and name not in left_out]
    stale = [name for name in passed if reason_for(name)]
    print(f"huggingface_hub {release}: {len(upstream)} tests, of which the rig runs {len(able)}")
    print(f"  through hf_haul: {len(passed)} pass, {len(left_out)} are left out, {len(broken)} fail")
    for name, reason in left_out.items():
        print(f"  left out: {name}: {reason}")
    for name, outcome in upstream.items():
        if outcome == "failed":
            reason = reason_for(name, NOT_ON_RIG) or "no reason known: look at it"
            print(f"  not on this rig: {name}: {reason}")
    for name in broken:
        print(f"  FAILS: {name} ({ours.get(name, 'not run')})")
    for name in stale:
        print(f"  PASSES, though left out: {name}")
    return 1 if broken or stale or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
