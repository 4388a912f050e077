"""huggingface_hub itself, talking to the local hub: what it downloads, lists and raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import (
    HfApi,
    HfFileSystem,
    RepoFile,
    RepoFolder,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.support.hub import ServedRepo, hub_environment, run_python, serve_repo
from tests.support.repos import contents, make_many_files

from hf_haul.localhub import Account, LocalHub, Repo

pytestmark = pytest.mark.usefixtures("no_xet")

ANN, BOB = "hf_ann", "hf_bob"


@pytest.fixture
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    """One model with two commits, a tag, a branch, a pull request and a converted ref."""
    with serve_repo(tmp_path_factory.mktemp("model")) as made:
        made.repo.tag("v1", "main")
        made.repo.commit({"later.txt": b"later"}, "Add a file\n\nAnd say why.", branch="feature/x")
        made.repo.branch("refs/pr/1", "feature/x")
        made.repo.branch("refs/convert/parquet", "main")
        yield made


# -- downloads


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as the hub does"),
        pytest.param({"git_files": "direct"}, id="git files direct"),
        pytest.param({"git_files": "redirect", "gzip_git_files": True}, id="git files gzipped"),
        pytest.param({"lfs": "direct"}, id="LFS direct"),
        pytest.param({"lfs": "same_origin"}, id="LFS on the same origin"),
        pytest.param({"quoted_etags": False}, id="etags without quotes"),
        pytest.param({"commit_names": "sha256"}, id="commits with 64 digits"),
        pytest.param({"page_size": 3}, id="small pages"),
    ],
)
def test_a_snapshot_has_the_same_bytes(repo_type: str, options: dict[str, object], tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src", "org/tiny", repo_type, shard_bytes=20_000, **options) as served:
        got = snapshot_download(
            "org/tiny", repo_type=repo_type, endpoint=served.hub.url, cache_dir=tmp_path / "cache"
        )
        assert contents(Path(got)) == served.contents
        assert all(request.token is None for request in served.hub.requests)


def test_a_snapshot_again_costs_one_request(served: ServedRepo, tmp_path: Path) -> None:
    first = snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=tmp_path)
    served.hub.requests.clear()
    assert snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=tmp_path) == first
    kinds = [request.kind for request in served.hub.requests if request.kind != "agent-harnesses"]
    assert kinds == ["info"]


@pytest.mark.parametrize("revision", ["v1", "feature/x", "refs/pr/1", "refs/convert/parquet", None])
def test_any_revision_can_be_downloaded(served: ServedRepo, tmp_path: Path, revision: str | None) -> None:
    got = snapshot_download("org/tiny", revision=revision, endpoint=served.hub.url, cache_dir=tmp_path)
    has_it = revision in ("feature/x", "refs/pr/1")
    assert Path(got, "later.txt").is_file() is has_it
    commit = served.repo.resolve(revision or "main")
    assert commit is not None
    assert Path(got).name == commit.id


def test_single_files_of_every_kind_can_be_downloaded(served: ServedRepo, tmp_path: Path) -> None:
    for name in served.contents:
        got = hf_hub_download("org/tiny", name, endpoint=served.hub.url, cache_dir=tmp_path)
        assert Path(got).read_bytes() == (served.folder / name).read_bytes(), name
        # The cache names a blob by its etag: that is what shows the etag was the right one.
        assert Path(got).resolve().name == served.repo.head.tree.files[name].etag


def test_the_token_goes_to_the_hub_and_not_to_the_other_origin(tmp_path: Path) -> None:
    account = Account("ann", ANN, repos=("org/tiny",))
    with serve_repo(tmp_path / "src", accounts=[account]) as served:
        served.repo.private = True
        got = snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=tmp_path / "cache", token=ANN)
        assert contents(Path(got)) == served.contents
        by_origin = {request.kind == "cdn": set() for request in served.hub.requests}
        for request in served.hub.requests:
            if request.kind != "agent-harnesses":
                by_origin[request.kind == "cdn"].add(request.token)
        assert by_origin == {False: {f"Bearer {ANN}"}, True: {None}}


# -- listings


@pytest.mark.parametrize(("recursive", "expand"), [(True, False), (True, True), (False, True)])
def test_a_listing_in_pages_is_the_whole_listing(tmp_path: Path, recursive: bool, expand: bool) -> None:
    make_many_files(tmp_path / "src", 130, nbytes=10)
    with serve_repo(tmp_path / "src", page_size=50, expanded_page_size=20) as served:
        api = HfApi(endpoint=served.hub.url)
        rows = list(api.list_repo_tree("org/tiny", recursive=recursive, expand=expand))
        tree = served.repo.head.tree
        assert [row.path for row in rows] == [entry.path for entry in tree.listing(recursive=recursive)]
        pages = -(-len(rows) // (20 if expand else 50))
        assert len(served.hub.requests.of("tree")) == pages
        assert all((row.last_commit is not None) is expand for row in rows)


def test_a_listing_has_the_ids_and_sizes_of_git_and_lfs(served: ServedRepo) -> None:
    api = HfApi(endpoint=served.hub.url)
    rows = {row.path: row for row in api.list_repo_tree("org/tiny", recursive=True)}
    tree = served.repo.head.tree
    for path, sha256 in served.contents.items():
        row = rows[path]
        assert isinstance(row, RepoFile)
        entry = tree.files[path]
        assert (row.size, row.blob_id) == (entry.size, entry.git_oid)
        assert (row.lfs is None) is not entry.is_lfs
        if row.lfs is not None:
            assert (row.lfs.sha256, row.lfs.size) == (sha256, entry.size)
            assert row.lfs.pointer_size == len(entry.pointer)
    assert isinstance(rows["nested/one"], RepoFolder)
    assert {row.path for row in api.list_repo_tree("org/tiny", "nested/one")} == {
        "nested/one/two",
        "nested/one/also.json",
    }


def test_paths_info_knows_files_and_folders_and_drops_the_rest(served: ServedRepo) -> None:
    api = HfApi(endpoint=served.hub.url)
    asked = ["config.json", "nested", "nope", "odd names/with space & #hash%20?.txt"]
    found = api.get_paths_info("org/tiny", asked, expand=True)
    assert [row.path for row in found] == [asked[0], asked[1], asked[3]]
    assert isinstance(found[1], RepoFolder)
    assert all(row.last_commit is not None for row in found)


def test_refs_and_commits_are_told(served: ServedRepo) -> None:
    api = HfApi(endpoint=served.hub.url)
    refs = api.list_repo_refs("org/tiny", include_pull_requests=True)
    assert {
        ref.ref: ref.target_commit
        for group in (refs.branches, refs.tags, refs.converts, refs.pull_requests or [])
        for ref in group
    } == {ref: commit.id for ref, commit in served.repo.refs.items()}
    assert api.list_repo_refs("org/tiny").pull_requests is None
    commits = api.list_repo_commits("org/tiny", revision="feature/x", formatted=True)
    assert [commit.title for commit in commits] == ["Add a file", "Upload folder"]
    assert commits[0].message == "And say why."
    assert commits[0].authors == ["localhub"]
    assert commits[0].created_at > commits[1].created_at


def test_commits_come_in_pages(tmp_path: Path) -> None:
    repo = Repo("org/long")
    for i in range(7):
        repo.commit({"n.txt": str(i).encode()}, f"Commit {i}")
    with LocalHub(repo, commits_page_size=3) as hub:
        commits = HfApi(endpoint=hub.url).list_repo_commits("org/long")
        assert [commit.title for commit in commits] == [f"Commit {i}" for i in reversed(range(7))]
        assert len(hub.requests.of("commits")) == 3


def test_repo_info_tells_files_with_their_digests(served: ServedRepo) -> None:
    info = HfApi(endpoint=served.hub.url).model_info("org/tiny", files_metadata=True)
    assert info.sha == served.repo.head.id
    tree = served.repo.head.tree
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert siblings.keys() == tree.files.keys()
    for path, entry in tree.files.items():
        assert (siblings[path].size, siblings[path].blob_id) == (entry.size, entry.git_oid)
    short = HfApi(endpoint=served.hub.url).model_info("org/tiny", expand=["sha"])
    assert (short.sha, short.siblings) == (info.sha, None)


def test_repositories_can_be_listed(tmp_path: Path) -> None:
    repos = [Repo(f"org/m{i}") for i in range(3)] + [Repo("org/d", "dataset"), Repo("x/secret", private=True)]
    with LocalHub(*repos) as hub:
        api = HfApi(endpoint=hub.url, token=False)
        assert [m.id for m in api.list_models()] == ["org/m0", "org/m1", "org/m2"]
        assert [m.id for m in api.list_models(search="M1")] == ["org/m1"]
        assert [d.id for d in api.list_datasets(author="org")] == ["org/d"]


# -- the filesystem


def test_the_filesystem_lists_finds_and_reads(served: ServedRepo) -> None:
    fs = HfFileSystem(endpoint=served.hub.url, skip_instance_cache=True)
    assert sorted(fs.find("org/tiny")) == sorted(f"org/tiny/{path}" for path in served.contents)
    assert fs.glob("org/tiny/**/*.safetensors") == [
        "org/tiny/model-00001-of-00002.safetensors",
        "org/tiny/model-00002-of-00002.safetensors",
    ]
    assert {row["type"] for row in fs.ls("org/tiny/nested")} == {"file", "directory"}
    assert fs.exists("org/tiny@refs/pr/1/later.txt")
    assert not fs.exists("org/tiny/later.txt")
    assert fs.info("org/tiny/config.json")["size"] == (served.folder / "config.json").stat().st_size
    whole = (served.folder / "model-00001-of-00002.safetensors").read_bytes()
    with fs.open("org/tiny/model-00001-of-00002.safetensors", "rb", block_size=10_000) as file:
        file.seek(100_000)
        assert file.read(500) == whole[100_000:100_500]
        file.seek(-100, 2)
        assert file.read() == whole[-100:]
    assert fs.cat_file("org/tiny/config.json") == (served.folder / "config.json").read_bytes()


# -- errors, table 1.9


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalHub]:
    files = {"config.json": b"{}", "w.bin": b"weights"}
    repos = [
        Repo("org/open"),
        Repo("org/private", private=True),
        Repo("org/gated", gated="manual"),
        Repo("org/disabled", disabled=True),
    ]
    for repo in repos:
        repo.commit(files)
    accounts = [Account("ann", ANN, ("org/private",), ("org/gated",)), Account("bob", BOB)]
    with LocalHub(*repos, accounts=accounts) as hub:
        yield hub


@pytest.mark.parametrize(
    ("repo_id", "token", "revision", "filename", "expected"),
    [
        ("org/open", False, "main", "nope.txt", EntryNotFoundError),
        ("org/open", False, "nope", "config.json", RevisionNotFoundError),
        ("org/nope", False, "main", "config.json", RepositoryNotFoundError),
        ("org/nope", ANN, "main", "config.json", RepositoryNotFoundError),
        ("org/private", False, "main", "config.json", RepositoryNotFoundError),
        ("org/private", BOB, "main", "config.json", RepositoryNotFoundError),
        ("org/private", "hf_unknown", "main", "config.json", RepositoryNotFoundError),
        ("org/private", ANN, "main", "config.json", None),
        ("org/gated", False, "main", "config.json", GatedRepoError),
        ("org/gated", BOB, "main", "w.bin", GatedRepoError),
        ("org/gated", ANN, "main", "w.bin", None),
        ("org/disabled", False, "main", "config.json", LocalEntryNotFoundError),
    ],
)
def test_a_download_fails_as_it_would_on_the_hub(
    guarded: LocalHub,
    tmp_path: Path,
    repo_id: str,
    token: str | bool,
    revision: str,
    filename: str,
    expected: type[Exception] | None,
) -> None:
    def get() -> str:
        return hf_hub_download(
            repo_id, filename, revision=revision, token=token, endpoint=guarded.url, cache_dir=tmp_path
        )

    if expected is None:
        assert Path(get()).stat().st_size > 0
        return
    with pytest.raises(expected) as raised:
        get()
    assert type(raised.value).__name__.removeprefix("Remote") == expected.__name__
    if repo_id == "org/disabled":
        assert isinstance(raised.value.__cause__, DisabledRepoError)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda api: api.model_info("org/nope"), RepositoryNotFoundError, id="info"),
        pytest.param(
            lambda api: api.model_info("org/open", revision="x"), RevisionNotFoundError, id="revision"
        ),
        pytest.param(
            lambda api: list(api.list_repo_tree("org/open", "nope")), EntryNotFoundError, id="tree of nothing"
        ),
        pytest.param(
            lambda api: list(api.list_repo_tree("org/open", "w.bin")), EntryNotFoundError, id="tree of a file"
        ),
        pytest.param(lambda api: api.list_repo_refs("org/private"), RepositoryNotFoundError, id="refs"),
        pytest.param(
            lambda api: api.list_repo_commits("org/open", revision="x"), RevisionNotFoundError, id="commits"
        ),
        pytest.param(lambda api: api.auth_check("org/gated"), GatedRepoError, id="auth check"),
        pytest.param(lambda api: api.model_info("org/disabled"), DisabledRepoError, id="disabled"),
        pytest.param(lambda api: api.whoami(), Exception, id="whoami without a token"),
        pytest.param(lambda api: api.create_repo("org/new", token=ANN), HfHubHTTPError, id="writing"),
    ],
)
def test_the_api_fails_as_it_would_on_the_hub(
    guarded: LocalHub, call: Callable[[HfApi], object], expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        call(HfApi(endpoint=guarded.url, token=False))


def test_a_missing_file_is_remembered_by_commit(guarded: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/open", "nope.txt", endpoint=guarded.url, cache_dir=tmp_path)
    repo = guarded.catalog.get("model", "org/open")
    assert repo is not None
    assert Path(tmp_path, "models--org--open", ".no_exist", repo.head.id, "nope.txt").is_file()


def test_who_may_do_what_is_told(guarded: LocalHub) -> None:
    api = HfApi(endpoint=guarded.url)
    assert api.whoami(token=ANN)["name"] == "ann"
    assert api.auth_check("org/gated", token=ANN) is None
    assert api.model_info("org/gated", token=False).gated == "manual"
    assert api.model_info("org/private", token=ANN).private


def test_an_old_name_leads_to_the_new_one(tmp_path: Path) -> None:
    repo = Repo("new/name")
    repo.commit({"config.json": b"{}", "w.bin": b"weights"})
    with LocalHub(repo) as hub:
        hub.rename("old-name", "new/name")
        got = snapshot_download("old-name", endpoint=hub.url, cache_dir=tmp_path)
        assert contents(Path(got)).keys() == {"config.json", "w.bin"}
        assert HfApi(endpoint=hub.url).model_info("old-name").id == "new/name"
        assert (tmp_path / "models--old-name").is_dir()  # the cache keeps the name that was asked for
        assert [r.status for r in hub.requests.of("info")][:2] == [307, 200]


def test_a_quota_that_is_used_up_is_named_in_the_error(guarded: LocalHub) -> None:
    guarded.limits.set("api", 1)
    try:
        api = HfApi(endpoint=guarded.url, token=False)
        api.model_info("org/open")
        with pytest.raises(HfHubHTTPError, match="429"):
            api.model_info("org/open")
    finally:
        guarded.limits.set("api", 1_000_000)


def test_a_whole_program_works_with_nothing_but_the_environment(served: ServedRepo, tmp_path: Path) -> None:
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
    done = run_python(code, hub_environment(served.hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == served.contents
