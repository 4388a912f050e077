"""The forms and workflows of .github say what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.wants import NO_SKIP

ROOT = Path(__file__).parents[1]
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def _form(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_there_are_forms_for_bugs_and_for_wishes() -> None:
    assert [path.stem for path in FORMS] == ["bug", "wish"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_takes(path: Path) -> None:
    form = _form(path)
    assert form["name"]
    assert form["description"]
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    assert {each["type"] for each in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    ids = [each["id"] for each in fields]
    assert len(set(ids)) == len(ids)
    assert all(each["attributes"]["label"] for each in fields)


def test_a_bug_comes_with_what_the_command_says_of_its_surroundings() -> None:
    labels = [
        each["attributes"]["label"]
        for each in _form(FORMS[0])["body"]
        if each.get("validations", {}).get("required")
    ]
    assert any("`hf-haul env`" in label for label in labels)


def test_the_request_asks_for_what_ci_checks() -> None:
    asked = (ROOT / ".github/pull_request_template.md").read_text(encoding="utf-8")
    run = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy"):
        assert tool in asked
        assert f'/bin/{tool}"' in run


def test_the_api_reference_is_built_by_ci_and_in_a_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["docs"]["steps"]]
    assert any(".ci/api_reference.py" in step for step in steps)
    # CI runs the test of it, which is skipped nowhere there.
    assert "api_reference.py" in (ROOT / "tests/test_docstrings.py").read_text(encoding="utf-8")


def test_in_ci_a_test_fails_for_want_of_a_program_or_a_library_and_has_them_all() -> None:
    before, command, _ = (ROOT / ".ci/run").read_text(encoding="utf-8").partition('"$(command_of test)"')
    assert command
    assert f"export {NO_SKIP}=1\n" in before
    installed = re.findall(r'--editable "\.\[([\w,]+)\]"', before)[0].split(",")
    programs = re.findall(r"for program in ([a-z ]+);", before)[0].split()
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
    assert set(re.findall(r'want_modules\(.*extra="(\w+)"\)', text)) - {"test"} == set(installed)
    assert set(re.findall(r'want_program\("([a-z]+)"\)', text)) == set(programs)
