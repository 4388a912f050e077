"""huggingface_hub's own functions on our engine."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub import hf_hub_download as imported_earlier
from huggingface_hub import snapshot_download as snapshot_imported_earlier
from huggingface_hub.errors import HfHubHTTPError
from tests.support.hub import ServedRepo, hub_environment, run_python, serve_repo
from tests.support.repos import random_bytes
from tests.support.wants import want_modules
from tests.support.wire import Connection, Wire, answer

from hf_haul.config import Settings
from hf_haul.errors import IntegrityError
from hf_haul.hub.acceleration import AccelerationWarning, accelerate
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.localhub.testing.faults import Corrupt, Cut, Headers, Status
from hf_haul.manager import DownloadHandle, ParallelDownloadManager

ORIGINAL = file_download._download_to_tmp_and_move
BIG = "model-00001-of-00002.safetensors"


class Watched(ParallelDownloadManager):
    """A manager that counts what it is given."""

    submitted = 0

    def submit(self, *args: Any, **options: Any) -> DownloadHandle:
        self.submitted += 1
        return super().submit(*args, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    # Storage under another host name: huggingface_hub 1.x takes another port for the same Hub.
    with serve_repo(tmp_path_factory.mktemp("source"), lfs="direct") as served:
        yield served


@pytest.fixture
def manager() -> Iterator[Watched]:
    settings = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=2)
    with Watched(settings=settings) as manager:
        yield manager


@pytest.fixture(autouse=True)
def clean(served: ServedRepo) -> Iterator[None]:
    yield
    served.hub.faults.clear()
    assert not accelerate.installed
    assert file_download._download_to_tmp_and_move is ORIGINAL


def digests(folder: str | Path) -> dict[str, str]:
    root = Path(folder)
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file() and ".cache" not in p.relative_to(root).parts
    }


@pytest.mark.parametrize("way", ["cache", "local_dir"])
def test_functions_imported_earlier_download_with_our_engine(
    served: ServedRepo, manager: Watched, tmp_path: Path, way: str
) -> None:
    where: dict[str, Any] = {
        "endpoint": served.hub.url,
        "token": False,
        "cache_dir": tmp_path / "cache",
    }
    if way == "local_dir":
        where["local_dir"] = tmp_path / "local"
    with accelerate(manager=manager) as done:
        assert done
        assert accelerate.installed
        folder = snapshot_imported_earlier("org/tiny", **where)
        assert manager.submitted == len(served.contents)
        path = imported_earlier("org/tiny", "config.json", force_download=True, **where)
        assert manager.submitted == len(served.contents) + 1
    assert digests(folder) == served.contents
    assert Path(path).read_bytes() == (served.folder / "config.json").read_bytes()
    assert not list(tmp_path.rglob("*.incomplete"))
    imported_earlier("org/tiny", "config.json", force_download=True, **where)
    assert manager.submitted == len(served.contents) + 1


def test_the_cache_is_the_one_upstream_leaves(served: ServedRepo, manager: Watched, tmp_path: Path) -> None:
    def entries(root: Path) -> set[str]:
        return {str(p.relative_to(root)) for p in root.rglob("*")}

    where: dict[str, Any] = {"endpoint": served.hub.url, "token": False}
    snapshot_imported_earlier("org/tiny", cache_dir=tmp_path / "plain", **where)
    with accelerate(manager=manager):
        snapshot_imported_earlier("org/tiny", cache_dir=tmp_path / "fast", **where)
    assert entries(tmp_path / "fast") == entries(tmp_path / "plain")


def test_a_download_that_broke_off_goes_on_where_it_was(
    served: ServedRepo, manager: Watched, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"endpoint": served.hub.url, "token": False, "cache_dir": tmp_path}
    size = (served.folder / BIG).stat().st_size
    served.hub.faults.add(Status(500), kind="resolve", method="GET", path=BIG, nth=2, times=None)
    served.hub.faults.add(Cut(size // 2), kind="resolve", method="GET", path=BIG)
    with accelerate(manager=manager):
        with pytest.raises(OSError):
            imported_earlier("org/tiny", BIG, **where)
        served.hub.faults.clear()
        sent = served.hub.body_bytes
        path = imported_earlier("org/tiny", BIG, **where)
    served.hub.requests.settle()
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == served.contents[BIG]
    assert served.hub.body_bytes - sent < size


def test_a_damaged_byte_never_reaches_the_cache(served: ServedRepo, manager: Watched, tmp_path: Path) -> None:
    served.hub.faults.add(Corrupt(100), kind="resolve", method="GET", path=BIG, times=None)
    with accelerate(manager=manager), pytest.raises(IntegrityError):
        imported_earlier("org/tiny", BIG, endpoint=served.hub.url, token=False, cache_dir=tmp_path)
    assert not list(tmp_path.rglob(f"snapshots/*/{BIG}"))


def test_a_refusal_is_an_error_of_upstreams(served: ServedRepo, manager: Watched, tmp_path: Path) -> None:
    served.hub.faults.add(Status(410), kind="resolve", method="GET", path=BIG, times=None)
    with accelerate(manager=manager), pytest.raises(HfHubHTTPError, match="410"):
        imported_earlier("org/tiny", BIG, endpoint=served.hub.url, token=False, cache_dir=tmp_path)


def test_signed_urls_of_the_storage_get_no_token(manager: Watched, tmp_path: Path) -> None:
    repo = Repo("org/storage")
    data = random_bytes(100_000, "storage")
    repo.commit({"a.bin": data}, "first")
    account = Account("me", "hf_me")
    with (
        LocalHub(repo, accounts=[account], lfs="redirect", cdn_refuses_tokens=True) as hub,
        accelerate(manager=manager),
    ):
        path = imported_earlier("org/storage", "a.bin", endpoint=hub.url, token="hf_me", cache_dir=tmp_path)
        assert Path(path).read_bytes() == data
        assert manager.submitted == 1
        assert {r.token for r in hub.requests.of("cdn")} == {None}


def same_host(url: str, target: str) -> bool:
    """What huggingface_hub 1.x takes for the Hub's own: every port of its host."""
    return urlsplit(url).hostname == urlsplit(target).hostname


def test_another_port_of_the_hubs_host_gets_no_token(
    manager: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (file_download, importlib.import_module("huggingface_hub.utils._http")):
        monkeypatch.setattr(module, "_is_same_or_hub_host", same_host)
    data = random_bytes(10_000, "elsewhere")

    def lie(connection: Connection) -> None:
        while head := connection.request():
            # As a Hub would, so that upstream has it downloaded from there.
            whole = answer(data, X_Repo_Commit="a" * 40, ETag=f'"{hashlib.sha256(data).hexdigest()}"')
            connection.send(whole.removesuffix(data) if head.startswith("HEAD ") else whole)

    repo = Repo("org/storage")
    repo.commit({"a.bin": data}, "first")
    with LocalHub(repo, accounts=[Account("me", "hf_me")], lfs="redirect") as hub, Wire(lie) as thief:
        hub.faults.add(Headers({"Location": thief.url("/a.bin")}), kind="resolve", times=None)
        with accelerate(manager=manager):
            path = imported_earlier(
                "org/storage", "a.bin", endpoint=hub.url, token="hf_me", cache_dir=tmp_path
            )
        assert Path(path).read_bytes() == data
        assert manager.submitted == 1
        assert thief.heads
        assert [head for head in thief.heads if "hf_me" in head] == []
        assert "Bearer hf_me" in {record.token for record in hub.requests}
    assert file_download._is_same_or_hub_host is same_host


def test_a_download_over_http_is_kept_out_of_the_shared_store(
    manager: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(file_download, "publish_blob_to_shared_store"):
        pytest.skip("this huggingface_hub has no shared store")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(file_download, "is_xet_available", lambda: True)
    repo = Repo("org/xet")
    repo.commit({"a.bin": b"x" * 5000}, "first", xet_hashes={"a.bin": "5" * 64})
    with LocalHub(repo, lfs="direct") as hub, accelerate(manager=manager):
        snapshot_imported_earlier("org/xet", endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert manager.submitted == 1
    assert not (tmp_path / "blobs").exists()
    (blob,) = (tmp_path / "models--org--xet" / "blobs").iterdir()
    assert not blob.is_symlink()


def test_what_is_installed_twice_is_uninstalled_twice() -> None:
    assert accelerate.install()
    ours = file_download._download_to_tmp_and_move
    assert accelerate.install()
    assert file_download._download_to_tmp_and_move is ours
    accelerate.uninstall()
    assert accelerate.installed
    accelerate.uninstall()
    assert not accelerate.installed
    accelerate.uninstall()


def test_blocks_may_end_in_any_order() -> None:
    first, second = accelerate(), accelerate()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert accelerate.installed
    second.__exit__(None, None, None)


def test_a_block_that_raises_is_undone() -> None:
    with pytest.raises(KeyError), accelerate():
        raise KeyError


def test_another_patch_on_top_of_ours_stays_and_is_handed_everything(
    served: ServedRepo, manager: Watched, tmp_path: Path
) -> None:
    called: list[str] = []

    def theirs(*args: Any, **kwargs: Any) -> None:
        called.append(kwargs["filename"])
        ours(*args, **kwargs)

    try:
        with accelerate(manager=manager):
            ours = file_download._download_to_tmp_and_move
            file_download._download_to_tmp_and_move = theirs
        assert file_download._download_to_tmp_and_move is theirs
        where: dict[str, Any] = {"endpoint": served.hub.url, "token": False, "cache_dir": tmp_path}
        path = imported_earlier("org/tiny", "config.json", **where)
        assert Path(path).read_bytes() == (served.folder / "config.json").read_bytes()
        assert called == ["config.json"]
        assert manager.submitted == 0
    finally:
        file_download._download_to_tmp_and_move = ORIGINAL


def other_parameters(incomplete_path: Path, url: str) -> None: ...


@pytest.mark.parametrize(
    "seam", [pytest.param(None, id="missing"), pytest.param(other_parameters, id="changed")]
)
def test_where_the_seam_is_missing_it_says_so_and_leaves_upstream_alone(
    served: ServedRepo, tmp_path: Path, seam: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if seam is None:
            patch.delattr(file_download, "_download_to_tmp_and_move")
        else:
            patch.setattr(file_download, "_download_to_tmp_and_move", seam)
        before = dict(vars(file_download))
        with pytest.warns(AccelerationWarning, match="_download_to_tmp_and_move"):
            assert not accelerate.install()
        block = accelerate()
        with pytest.warns(AccelerationWarning) as told:
            done = block.__enter__()
        assert done is False
        assert told[0].filename == __file__
        assert not accelerate.installed
        block.__exit__(None, None, None)
        assert vars(file_download) == before
    path = imported_earlier(
        "org/tiny", "config.json", endpoint=served.hub.url, token=False, cache_dir=tmp_path
    )
    assert Path(path).is_file()


def test_many_threads_may_come_and_go(served: ServedRepo, manager: Watched, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        try:
            start.wait(10)
            for turn in range(3):
                with accelerate(manager=manager):
                    imported_earlier(
                        "org/tiny",
                        "vocab.txt",
                        endpoint=served.hub.url,
                        token=False,
                        cache_dir=tmp_path / f"{number}-{turn}",
                    )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert manager.submitted == 12
    assert accelerate._replaced == []


# ---- real libraries, which imported huggingface_hub first


def bodies_not_by_upstream(hub: LocalHub) -> int:
    """How many files were fetched; each by us, because upstream puts an id on each of its requests."""
    hub.requests.settle()
    fetched = hub.requests.of("resolve", method="GET") + hub.requests.of("resolve-cache", method="GET")
    assert not [record for record in fetched if "x-amzn-trace-id" in record.headers]
    return len({record.path for record in fetched})


TRANSFORMERS = """
import sys
from transformers import AutoConfig, AutoTokenizer
import hf_haul
hf_haul.accelerate.install()
config = AutoConfig.from_pretrained("org/bert")
tokens = AutoTokenizer.from_pretrained("org/bert")("hello world")
print(config.hidden_size, tokens["input_ids"])
hf_haul.accelerate.uninstall()
"""

DATASETS = """
import sys
import datasets
import hf_haul
with hf_haul.accelerate():
    rows = datasets.load_dataset("org/rows", split="train")
print(rows.num_rows, sum(rows["x"]))
"""


def test_transformers_load_through_our_engine(tmp_path: Path) -> None:
    want_modules("transformers", extra="test")
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1, "world": 2}, "unk_token": "[UNK]"},
    }  # fmt: skip
    config = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    repo = Repo("org/bert")
    repo.commit(
        {
            "config.json": json.dumps(config).encode(),
            "tokenizer.json": json.dumps(tokenizer).encode(),
            "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}',
        },
        "first",
    )
    with LocalHub(repo, lfs="direct") as hub:
        done = run_python(TRANSFORMERS, hub_environment(hub, tmp_path), timeout=100)
        assert done.returncode == 0, done.stderr
        assert bodies_not_by_upstream(hub) == 3
    assert done.stdout.startswith("32 [1, 2]")


def test_datasets_load_through_our_engine(tmp_path: Path) -> None:
    want_modules("datasets", "pyarrow", extra="test")
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": list(range(1000))}), buffer)
    repo = Repo("org/rows", "dataset")
    repo.commit({"train.parquet": buffer.getvalue(), "README.md": b"# rows\n"}, "first")
    with LocalHub(repo, lfs="direct") as hub:
        done = run_python(DATASETS, hub_environment(hub, tmp_path), timeout=100)
        assert done.returncode == 0, done.stderr
        assert bodies_not_by_upstream(hub) >= 1
    assert done.stdout.startswith("1000 499500")
