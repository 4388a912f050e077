"""Behind mirrors that other people wrote: olah from PyPI and nginx, each in front of a local Hub.

olah keeps what it fetched and serves LFS files itself; it passes the ``Link`` of listings through untouched,
which leads past it from the second page on. nginx, with its redirects rewritten to its own origin, serves LFS
files as plain answers that lack a Hub's headers, and passes ``Link`` through too.

olah is taken from ``OLAH_CLI`` or the PATH, else installed into a virtual environment of its own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.support.engine import leftovers
from tests.support.hub import hub_environment
from tests.support.repos import contents, make_repo, random_bytes
from tests.support.wants import do_without, want_program

from hf_haul.config import MiB, Settings
from hf_haul.engine.handle import DownloadHandle
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.manager import ParallelDownloadManager

pytestmark = [
    pytest.mark.slow,
    # Installing olah is part of the first test that needs it.
    pytest.mark.timeout(300),
]

#: The one that was tried; a later one may answer differently.
OLAH = "olah>=0.5.4,<0.6"
#: olah decodes names twice, so it does not find this one.
DECODED_TWICE = "odd names/with space & #hash%20?.txt"
WEIGHTS = "model-00001-of-00002.safetensors"
SETTINGS = Settings(first_retry_wait=0.05, max_retry_wait=0.5, durable=False)

Origin = str


# -- the mirrors


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server in a process of its own; begins once it listens."""
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)


@pytest.fixture(scope="session")
def olah_cli(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, installed if it is nowhere."""
    found = os.environ.get("OLAH_CLI") or shutil.which("olah-cli")
    if found:
        return found
    place = tmp_path_factory.mktemp("olah") / "venv"
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    quick = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
    steps = [
        [sys.executable, "-m", "venv", str(place)],
        [str(programs / "python"), "-m", "pip", "install", *quick, OLAH],
    ]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=200, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            do_without(f"olah could not be installed: {error}")
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            do_without(f"olah could not be installed: {said[-1] if said else done.returncode}")
    return str(programs / "olah-cli")


@contextmanager
def _olah(program: str, hub: LocalHub, folder: Path) -> Iterator[Origin]:
    port = _free_port()
    own = f"127.0.0.1:{port}"
    options = {
        "host": "127.0.0.1",
        "port": str(port),
        "hf-scheme": "http",
        "hf-netloc": hub.url.removeprefix("http://"),
        "hf-lfs-netloc": hub.cdn_url.removeprefix("http://"),
        "mirror-scheme": "http",
        "mirror-netloc": own,
        "mirror-lfs-netloc": own,
        "repos-path": str(folder / "repos"),
        "log-path": str(folder / "logs"),
    }
    with _running([program, *(x for k, v in options.items() for x in (f"--{k}", v))], port, folder):
        yield f"http://{own}"


_NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/kept keys_zone=kept:1m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {hub};
            proxy_redirect {cdn}/ http://127.0.0.1:{port}/;
        }}
        location /lfs/ {{
            proxy_pass {cdn};
            {keep}
        }}
    }}
}}
"""
#: As mirrors do it that keep what they served: by name, whatever the signature.
_KEEP = 'proxy_cache kept; proxy_cache_key "$uri"; proxy_cache_valid 200 206 1h; proxy_cache_lock on;'


@contextmanager
def _nginx(hub: LocalHub, folder: Path, *, keep: bool = False) -> Iterator[Origin]:
    if os.name == "nt":
        pytest.skip("the configuration is for POSIX")
    program = want_program("nginx")
    port = _free_port()
    config = folder / "nginx.conf"
    # Else its worker, started by root, becomes somebody who may not write here.
    user = "user root;" if os.geteuid() == 0 else ""
    text = _NGINX.format(
        user=user, folder=folder, port=port, hub=hub.url, cdn=hub.cdn_url, keep=_KEEP if keep else ""
    )
    config.write_text(text)
    with _running([program, "-c", str(config), "-p", str(folder), "-e", "stderr"], port, folder):
        yield f"http://127.0.0.1:{port}"


MIRRORS = ["olah", "nginx", "nginx that keeps files"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_repo(tmp_path_factory.mktemp("source"), shard_bytes=3 * MiB)
    (folder / DECODED_TWICE).unlink()
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    return contents(folder)


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[LocalHub]:
    with LocalHub(
        Repo.from_folder(folder, "org/tiny"), accounts=[Account("me", "hf_me", repos=("org/*",))]
    ) as hub:
        yield hub


@pytest.fixture(scope="module")
def beyond() -> Iterator[LocalHub]:
    """Where ``Link`` leads: another origin, past the mirror."""
    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def start(
    hub: LocalHub, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Origin]]:
    """Starts each mirror when it is first asked for; they stay up for the module."""
    running: dict[str, Origin] = {}
    with ExitStack() as stack:

        def start(name: str) -> Origin:
            if name not in running:
                folder = tmp_path_factory.mktemp("mirror")
                if name == "olah":
                    server = _olah(request.getfixturevalue("olah_cli"), hub, folder)
                else:
                    server = _nginx(hub, folder, keep=name != "nginx")
                running[name] = stack.enter_context(server)
            return running[name]

        yield start


@pytest.fixture(params=MIRRORS)
def mirror(request: pytest.FixtureRequest, start: Callable[[str], Origin], hub: LocalHub) -> Iterator[Origin]:
    origin = start(request.param)
    hub.requests.clear()
    yield origin
    hub.set_pace(None)
    hub.options.page_size, hub.options.link_origin = 1000, None


class Watched(ParallelDownloadManager):
    """A manager that keeps its last handle."""

    handle: DownloadHandle

    def submit(self, *args: Any, **options: Any) -> DownloadHandle:
        self.handle = super().submit(*args, **options)
        return self.handle


@pytest.fixture(scope="module")
def manager() -> Iterator[Watched]:
    with Watched(settings=SETTINGS) as manager:
        yield manager


def add_repo(hub: LocalHub, files: Mapping[str, bytes | Path], *, private: bool = False) -> Repo:
    """A repository that no mirror has seen yet."""
    repo = Repo(f"org/repo-{next(_numbers)}", private=private)
    repo.commit(files, "first")
    hub.add(repo)
    return repo


_numbers = itertools.count()


# -- what is to work


def test_a_snapshot_from_a_mirror_is_whole_and_huggingface_hub_finds_it_offline(
    mirror: Origin, expected: dict[str, str], manager: Watched, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "token": False}
    found = snapshot_download("org/tiny", endpoint=mirror, manager=manager, **where)
    assert contents(Path(found)) == expected
    assert huggingface_hub.snapshot_download("org/tiny", local_files_only=True, **where) == found
    assert leftovers(tmp_path) == []


def test_one_file_from_a_mirror_is_whole_and_huggingface_hub_finds_it_offline(
    mirror: Origin, folder: Path, manager: Watched, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "token": False}
    for name in (WEIGHTS, "config.json"):
        found = hf_hub_download("org/tiny", name, endpoint=mirror, manager=manager, **where)
        assert Path(found).read_bytes() == (folder / name).read_bytes()
        assert huggingface_hub.hf_hub_download("org/tiny", name, local_files_only=True, **where) == found


def test_the_filesystem_reads_from_a_mirror(mirror: Origin, folder: Path, expected: dict[str, str]) -> None:
    fs = HaulFileSystem(endpoint=mirror, token=False, skip_instance_cache=True)
    assert {path.removeprefix("org/tiny/") for path in fs.find("org/tiny")} == set(expected)
    content = (folder / WEIGHTS).read_bytes()
    assert fs.cat_file(f"org/tiny/{WEIGHTS}") == content
    assert fs.cat_file(f"org/tiny/{WEIGHTS}", start=MiB, end=MiB + 500) == content[MiB : MiB + 500]


def test_all_pages_of_a_listing_are_asked_of_the_mirror(
    mirror: Origin, hub: LocalHub, beyond: LocalHub, manager: Watched, tmp_path: Path
) -> None:
    files = {f"folder/{i:02d}.txt": b"%d" % i for i in range(20)}
    repo = add_repo(hub, files)
    beyond.add(repo)
    hub.options.page_size, hub.options.link_origin = 4, beyond.url
    beyond.requests.clear()
    found = snapshot_download(repo.repo_id, endpoint=mirror, token=False, manager=manager, cache_dir=tmp_path)
    assert contents(Path(found)).keys() == files.keys()
    assert len(hub.requests.of("tree")) > 3
    assert len(beyond.requests) == 0
    # This is no small thing: huggingface_hub itself goes where Link leads.
    api = huggingface_hub.HfApi(endpoint=mirror, token=False)
    assert len(list(api.list_repo_tree(repo.repo_id, recursive=True))) == 21
    assert len(beyond.requests.of("tree")) > 0


def test_the_filesystem_lists_all_pages_from_the_mirror(
    mirror: Origin, hub: LocalHub, beyond: LocalHub
) -> None:
    files = {f"{folder}/{i}.txt": b"%d" % i for folder in "abc" for i in range(4)}
    repo = add_repo(hub, files)
    beyond.add(repo)
    hub.options.page_size, hub.options.link_origin = 4, beyond.url
    beyond.requests.clear()
    fs = HaulFileSystem(endpoint=mirror, token="hf_me", skip_instance_cache=True)
    assert fs.find(repo.repo_id) == sorted(f"{repo.repo_id}/{path}" for path in files)
    assert fs.ls(f"{repo.repo_id}/b", detail=False) == [f"{repo.repo_id}/b/{i}.txt" for i in range(4)]
    assert len(hub.requests.of("tree")) > 3
    assert len(beyond.requests) == 0


def test_a_large_file_comes_from_a_mirror_in_parts(mirror: Origin, hub: LocalHub, tmp_path: Path) -> None:
    content = random_bytes(20 * MiB, mirror)
    repo = add_repo(hub, {"big.safetensors": content})
    settings = Settings(part_size=2 * MiB, durable=False)
    with Watched(settings=settings) as manager:
        found = hf_hub_download(
            repo.repo_id, "big.safetensors", endpoint=mirror, token=False, manager=manager, cache_dir=tmp_path
        )
        assert manager.handle.progress().retries == 0
        requests = manager.get_download_stats()["pool"]["total_requests"]
    assert Path(found).read_bytes() == content
    assert requests >= 10


_PROGRAM = """
import sys
from hf_haul import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2], token=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_download_from_a_mirror_goes_on_where_it_was(
    mirror: Origin, hub: LocalHub, manager: Watched, tmp_path: Path
) -> None:
    size = 32 * MiB
    content = random_bytes(size, "kill", mirror)
    repo = add_repo(hub, {"big.safetensors": content})
    hub.set_pace(None, total=16 * MiB)
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, repo.repo_id, str(tmp_path)],
        env=hub_environment(hub, tmp_path / "home", HF_ENDPOINT=mirror, HF_HAUL_PART_SIZE="4MiB"),
    )

    def on_disk() -> int:
        return sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*.incomplete"))

    try:
        deadline = time.monotonic() + 60
        while on_disk() < size * 5 // 8:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait(10)
    hub.set_pace(None)
    found = snapshot_download(repo.repo_id, endpoint=mirror, token=False, cache_dir=tmp_path, manager=manager)
    assert (Path(found) / "big.safetensors").read_bytes() == content
    assert manager.handle.progress().bytes_transferred < size * 3 // 4
    assert leftovers(tmp_path) == []


def test_a_token_gets_a_private_repository_through_a_mirror(
    mirror: Origin, hub: LocalHub, manager: Watched, tmp_path: Path
) -> None:
    content = random_bytes(MiB, "private")
    repo = add_repo(hub, {"w.safetensors": content, "config.json": b"{}"}, private=True)
    where: dict[str, Any] = {"endpoint": mirror, "cache_dir": tmp_path, "manager": manager}
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        snapshot_download(repo.repo_id, token=False, **where)
    found = Path(snapshot_download(repo.repo_id, token="hf_me", **where))
    assert (found / "w.safetensors").read_bytes() == content
    assert (found / "config.json").read_bytes() == b"{}"


def test_upstream_gives_up_where_a_mirror_has_lfs_files_on_its_own_origin(
    start: Callable[[str], Origin], hub: LocalHub, manager: Watched, tmp_path: Path
) -> None:
    mirror = start("nginx")
    with pytest.raises(LocalEntryNotFoundError):
        huggingface_hub.hf_hub_download("org/tiny", WEIGHTS, endpoint=mirror, token=False, cache_dir=tmp_path)
    assert hf_hub_download(
        "org/tiny", WEIGHTS, endpoint=mirror, token=False, cache_dir=tmp_path, manager=manager
    )


@pytest.mark.parametrize("name", MIRRORS[1:])
def test_an_expired_link_of_a_mirror_is_asked_for_again(
    name: str, start: Callable[[str], Origin], hub: LocalHub, tmp_path: Path
) -> None:
    mirror = start(name)
    content = random_bytes(8 * MiB, "expired", name)
    repo = add_repo(hub, {"big.safetensors": content})
    settings = Settings(part_size=MiB, first_retry_wait=0.01, durable=False)
    with Watched(settings=settings) as manager:
        hub.set_pace(4 * MiB)
        # A link lives as long as it takes to fetch a quarter of the file.
        hub.signer.lifetime = 0.5
        try:
            found = hf_hub_download(
                repo.repo_id,
                "big.safetensors",
                endpoint=mirror,
                token=False,
                cache_dir=tmp_path,
                manager=manager,
            )
        finally:
            hub.signer.lifetime = 3600.0
            hub.set_pace(None)
    assert Path(found).read_bytes() == content
