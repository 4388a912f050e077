"""URLs are split before they are decoded, and decoded once."""

from __future__ import annotations

import pytest

from hf_haul.localhub.routing import parse

KNOWN = {("model", "org/name"), ("model", "gpt2"), ("dataset", "org/name"), ("model", "org/tree")}
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/models/org/name", ("info", "model", "org/name", None, "")),
        ("/api/models/gpt2", ("info", "model", "gpt2", None, "")),
        ("/api/models/new/one", ("info", "model", "new/one", None, "")),
        ("/api/datasets/org/name/revision/main", ("info", "dataset", "org/name", "main", "")),
        ("/api/models/gpt2/revision/v1", ("info", "model", "gpt2", "v1", "")),
        ("/api/models/org/name/revision/refs%2Fpr%2F1", ("info", "model", "org/name", "refs/pr/1", "")),
        ("/api/models/org/name/tree/main", ("tree", "model", "org/name", "main", "")),
        ("/api/models/org/tree/tree/main", ("tree", "model", "org/tree", "main", "")),
        ("/api/models/gpt2/tree/main", ("tree", "model", "gpt2", "main", "")),
        ("/api/models/org/name/tree/a%2Fb/x%2Fy", ("tree", "model", "org/name", "a/b", "x/y")),
        (
            "/api/models/org/name/tree/refs/convert/parquet/x/y",
            ("tree", "model", "org/name", "refs/convert/parquet", "x/y"),
        ),
        ("/api/models/org/name/paths-info/main", ("paths-info", "model", "org/name", "main", "")),
        ("/api/models/org/name/refs", ("refs", "model", "org/name", None, "")),
        ("/api/models/org/name/commits/main", ("commits", "model", "org/name", "main", "")),
        ("/api/models/org/name/auth-check", ("auth-check", "model", "org/name", None, "")),
        (f"/api/models/org/name/xet-read-token/{SHA}", ("xet-read-token", "model", "org/name", SHA, "")),
        (
            f"/api/resolve-cache/models/org/name/{SHA}/a%20b.txt",
            ("resolve-cache", "model", "org/name", SHA, "a b.txt"),
        ),
        (f"/api/resolve-cache/models/gpt2/{SHA}/a/b", ("resolve-cache", "model", "gpt2", SHA, "a/b")),
        ("/org/name/resolve/main/a.txt", ("resolve", "model", "org/name", "main", "a.txt")),
        ("/gpt2/resolve/main/a.txt", ("resolve", "model", "gpt2", "main", "a.txt")),
        ("/resolve/resolve/resolve/main/x", ("resolve", "model", "resolve/resolve", "main", "x")),
        ("/datasets/org/name/resolve/main/a.txt", ("resolve", "dataset", "org/name", "main", "a.txt")),
        ("/spaces/org/name/raw/main/a.txt", ("raw", "space", "org/name", "main", "a.txt")),
        ("/org/name/resolve/refs%2Fpr%2F1/x", ("resolve", "model", "org/name", "refs/pr/1", "x")),
        ("/org/name/resolve/refs/pr/1/x/y", ("resolve", "model", "org/name", "refs/pr/1", "x/y")),
        (
            "/org/name/resolve/main/hash%2520%3F%23.txt",
            ("resolve", "model", "org/name", "main", "hash%20?#.txt"),
        ),
        ("/org/name/resolve/main/a%2Fb", ("resolve", "model", "org/name", "main", "a/b")),
        ("/api/whoami-v2", ("whoami", "", "", None, "")),
        ("/api/agent-harnesses", ("agent-harnesses", "", "", None, "")),
        ("/api/models", ("list", "model", "", None, "")),
        ("/", ("home", "", "", None, "")),
        ("/api/nonsense/org/name", ("other", "", "", None, "")),
        ("/api/models/org/name/nonsense", ("other", "", "", None, "")),
        ("/api/models/org/name/refs/x/y", ("other", "", "", None, "")),
        ("/org/name/resolve/main", ("other", "", "", None, "")),
        ("/org/name", ("other", "", "", None, "")),
        ("/api", ("other", "", "", None, "")),
    ],
)
def test_a_url_names_one_thing(target: str, expected: tuple[str, str, str, str | None, str]) -> None:
    route = parse(target, lambda kind, repo_id: (kind, repo_id) in KNOWN)
    assert (route.kind, route.repo_type, route.repo_id, route.revision, route.path) == expected


def test_a_query_may_repeat_a_name_with_or_without_brackets() -> None:
    route = parse("/api/models/gpt2?expand=sha&expand[]=id&recursive=True&limit=5&x", lambda *_: True)
    assert route.all("expand") == ["sha", "id"]
    assert route.flag("recursive")
    assert not route.flag("x")
    assert route.get("limit") == "5"
    assert route.get("nope") is None
