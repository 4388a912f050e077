from __future__ import annotations

import pytest
from huggingface_hub.utils import parse_hf_uri  # type: ignore[attr-defined]  # public, but without an __all__

from hf_haul.hub.uris import RepoFileUri, read_uri, uri_of


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space", "kernel"])
@pytest.mark.parametrize("revision", ["c" * 40, "main", "refs/pr/1"])
@pytest.mark.parametrize("path", ["a.bin", "deep/er/ü b@c%20.txt", "with\nline.txt"])
def test_a_uri_says_what_it_was_made_of_to_us_and_to_huggingface_hub(
    repo_type: str, revision: str, path: str
) -> None:
    uri = uri_of(repo_type, "org/name", revision, path)
    assert read_uri(uri) == RepoFileUri(repo_type, "org/name", revision, path)
    theirs = parse_hf_uri(uri)
    assert (theirs.type, theirs.id, theirs.revision) == (repo_type, "org/name", revision)
    assert theirs.path_in_repo == path


def test_a_repository_without_an_organisation_has_a_uri() -> None:
    assert read_uri(uri_of("model", "gpt2", "main", "a/b")) == RepoFileUri("model", "gpt2", "main", "a/b")


@pytest.mark.parametrize(
    "text",
    ["", "hf://", "hf://org/name", "hf://org/name/a.bin", "hf://org/name@c", "hf://a/b/c@d/e", "s3://a/b@c/d",
     "hf://org/na me@c/d"],
)  # fmt: skip
def test_what_is_no_uri_of_a_file_at_a_commit_says_nothing(text: str) -> None:
    assert read_uri(text) is None
