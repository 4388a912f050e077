"""What all rows share: the files, the servers, the programs, and the loop that takes turns."""

from __future__ import annotations

import contextlib
import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.harness import KIB, MIB, Result, Sample, Tool, quiet, run_tool
from tests.benchmarks.memory import pages_in_use
from tests.benchmarks.read_data import MAKERS, make
from tests.benchmarks.servers import Servers, certificate, serving

__all__ = ["CLIENT", "DATA", "Options", "Rig", "rig_for"]

ROOT: Final = Path(__file__).parents[2]
CLIENT: Final = Path(__file__).parent / "client.py"
READ_CLIENT: Final = CLIENT.with_name("read_client.py")
_LOADER_FILES: Final = {
    "config.json": 2 * KIB,
    "tokenizer.json": 512 * KIB,
    "model.safetensors.index.json": 64 * KIB,
}


def _many(count: int, nbytes: int, suffix: str = "json") -> dict[str, int]:
    return {f"files/{number:05d}.{suffix}": nbytes for number in range(count)}


#: Repositories by name: sizes in bytes by path. Only those that the chosen rows need are made.
DATA: Final[Mapping[str, Mapping[str, int]]] = {
    "bench/single": {"model.safetensors": 2048 * MIB},
    "bench/half": {"model.safetensors": 1024 * MIB},
    "bench/quarter": {"model.safetensors": 256 * MIB},
    "bench/shards": {f"model-{n:05d}-of-00008.safetensors": 256 * MIB for n in range(1, 9)},
    "bench/small": _many(2000, 20 * KIB),
    "bench/loader": {**_LOADER_FILES, **{f"model-{n:05d}-of-00004.safetensors": 256 * MIB for n in range(1, 5)}},
    "bench/mixed": {
        **{f"config-{n:02d}.json": 20 * KIB for n in range(20)},
        **_many(980, 20 * KIB, "png"),
        **{f"part-{n:02d}.bin": 100 * MIB for n in range(8)},
        "model.safetensors": 1024 * MIB,
    },
    "bench/thousand": {f"{number:04d}.json": 20 * KIB for number in range(1000)},
    "bench/one": {"model.safetensors": 64 * MIB},
    "bench/sources": {"model.safetensors": 192 * MIB},
    "bench/many-sources": {f"{'ab'[n % 2]}/{n:02d}.safetensors": 4 * MIB for n in range(48)},
    "bench/sixteen": {f"model-{n:05d}-of-00016.safetensors": 64 * MIB for n in range(1, 17)},
}  # fmt: skip

#: Repositories of small files, which nginx gives itself.
_SMALL: Final = frozenset({"bench/small", "bench/thousand", "reads/small", "reads/zarr"})


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        rounds: Runs of each tool.
        pairs: The same where tools are compared in pairs.
        rows: Texts one of which has to be in the name of a row of pairs or reads for it to be measured; all of them if empty.
        peers: Whether reads are measured with huggingface_hub's filesystem too.
        quick: A tenth of the bytes, to see that everything works; the numbers mean little.
        patience: Seconds to wait for a quiet machine before each run.
        timeout: Seconds one run may take.
        folder: Where everything is made, on a memory file system where there is one.
        src: The hf_haul to measure: the folder that holds the package.
        as_is: Whether to leave memory and the servers' congestion control as this machine has them.
    """

    rounds: int = 3
    pairs: int = 15
    rows: Sequence[str] = ()
    peers: bool = True
    quick: bool = False
    patience: float = 20.0
    timeout: float = 300.0
    folder: Path = field(
        default_factory=lambda: Path("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    )
    src: Path = ROOT / "src"
    as_is: bool = False

    def wants(self, row: str, rows: Iterable[str]) -> bool:
        """Whether a row is to be measured: it is named, or has in its name what names none.

        Args:
            row: Its name.
            rows: The names of all rows of its module.
        """
        named = set(rows)
        return not self.rows or any(text == row or (text not in named and text in row) for text in self.rows)


class Rig:
    """Servers, files and programs of one run.

    Attributes:
        options: How to run.
        servers: What is being served.
        missing: Peers that are not on this machine, and why they are not shown.
        out: Where the program that is running writes to; empty when it starts.
    """

    def __init__(self, folder: Path, options: Options, servers: Servers, cert: Path | None) -> None:
        self.folder = folder
        self.options = options
        self.servers = servers
        self.missing: dict[str, str] = {}
        self.out = folder / "out"
        self._cert = cert
        self._files = folder / "files"
        self._seen: set[tuple[str, str]] = set()
        self._listings = 0
        for command in ("curl", "aria2c"):
            if shutil.which(command) is None:
                self.missing[command] = "no such command"
        if importlib.util.find_spec("hf_transfer") is None:
            self.missing["hf_transfer"] = "not installed (pip install hf_transfer)"
        if cert is None:
            self.missing["TLS"] = "no openssl to make a certificate"

    # ---- what is served

    def sizes(self, repo: str) -> dict[str, int]:
        """Bytes of a repository's files by path."""
        folder = self._files / repo
        return {
            p.relative_to(folder).as_posix(): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    def folder_of(self, repo: str) -> Path:
        """Where a repository's files are."""
        return self._files / repo

    def files(self, repo: str) -> dict[str, tuple[str, str]]:
        """Where each LFS file of a repository is on disk, and its sha256, by path."""
        folder = self.folder_of(repo)
        return {path: (str(folder / path), sha256) for path, sha256 in self._digests(repo).items()}

    def nbytes(self, repo: str) -> int:
        """Bytes of a repository."""
        return sum(self.sizes(repo).values())

    def urls(self, repo: str, origin: str) -> dict[str, str]:
        """Plain URLs of a repository's files by path."""
        base = self.servers.nginx.origins[origin]
        return {path: f"{base}/files/{repo}/{path}" for path in self.sizes(repo)}

    def endpoint(self, origin: str) -> str:
        """The Hub whose files come from ``origin``: one of nginx's origins or fronts, or ``own``."""
        return self.servers.nginx.hubs.get(origin) or self.servers.hub.urls[origin]

    # ---- programs

    def haul(
        self, repo: str, origin: str, name: str = "hf-haul", *, what: str = "haul_snapshot", **options: Any
    ) -> Tool:
        """hf-haul's ``snapshot_download`` into an empty cache."""
        return self._snapshot(what, repo, origin, name, options)

    def hub(self, repo: str, origin: str, name: str = "huggingface_hub", **options: Any) -> Tool:
        """huggingface_hub's, over HTTP."""
        return self._snapshot("hub_snapshot", repo, origin, name, options)

    def _snapshot(self, what: str, repo: str, origin: str, name: str, options: dict[str, Any]) -> Tool:
        cache = self.out / "cache"
        arguments = {"repo_id": repo, "cache_dir": str(cache), **options}
        return Tool(
            name,
            [sys.executable, str(CLIENT), what, json.dumps(arguments)],
            self.environment(origin),
            None if what == "haul_timeline" else self._check(repo, lambda: next(cache.glob("*/snapshots/*"))),
            reports=True,
            nbytes=self.nbytes(repo),
        )

    def environment(self, origin: str) -> dict[str, str]:
        """Variables of a program that knows no Hub but ours."""
        env = {
            "HF_ENDPOINT": self.endpoint(origin),
            "HF_HOME": str(self.out / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "*",
            "PYTHONPATH": str(self.options.src),
        }
        if origin.endswith("tls") and self._cert is not None:
            env.update(
                dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(self._cert))
            )
        return env

    def manager(
        self,
        repo: str,
        origin: str,
        name: str = "hf-haul manager",
        *,
        host: str | None = None,
        **options: Any,
    ) -> Tool:
        """hf-haul's manager over plain URLs, at another ``host`` than 127.0.0.1 if one is named."""
        digests, sizes = self._digests(repo), self.sizes(repo)
        urls = {
            path: url.replace("127.0.0.1", host or "127.0.0.1", 1)
            for path, url in self.urls(repo, origin).items()
        }
        rows = [[path, sizes[path], digests.get(path), url] for path, url in urls.items()]
        self._listings += 1
        listing = self.folder / f"urls-{self._listings}.json"
        listing.write_text(json.dumps({"urls": rows, "folder": str(self.out / "to"), **options}))
        return self.client(name, "haul_manager", f"@{listing}", repo, origin)

    def reader(self, what: str, repo: str, protocol: str, name: str) -> Tool:
        """A loader that reads over the link, or from the folder if the protocol is ``file``; see ``read_client``."""
        root = str(self._files / repo) if protocol == "file" else repo
        argv = [sys.executable, str(READ_CLIENT), what, protocol, root]
        marks: list[int] = []
        log = self.servers.nginx.log

        def mark() -> dict[str, Any]:
            marks.append(log.mark())
            return {}

        return Tool(
            name,
            argv,
            {**self.environment("link"), "HF_DATASETS_CACHE": str(self.out / "datasets")},
            reports=True,
            nbytes=self.nbytes(repo),
            prepare=mark,
            after=lambda: log.since(marks[-1]),
        )

    @staticmethod
    def without(tool: Tool, mechanism: str, name: str) -> Tool:
        """The same, with a mechanism of hf_haul taken out; see ``switches``."""
        return replace(tool, name=name, argv=[*tool.argv, "--without", mechanism])

    def require_switch(self, mechanism: str) -> None:
        """Take a mechanism out of a process that does nothing.

        Raises:
            RuntimeError: That is not possible.
        """
        argv = [sys.executable, str(CLIENT), "nothing", "{}", "--without", mechanism]
        env = {**os.environ, **self.environment("plain")}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{mechanism} cannot be switched off: {done.stderr.strip()[-600:]}")

    def curl(self, repo: str, origin: str, name: str = "curl", *, parallel: int = 32) -> Tool | None:
        """curl: one connection for one file, ``parallel`` at once for many."""
        if "curl" in self.missing:
            return None
        urls = self.urls(repo, origin)
        config = self.folder / "curl.conf"
        config.write_text(
            "".join(f'url = "{url}"\noutput = "{self.out}/to/{path}"\n' for path, url in urls.items())
        )
        argv = ["curl", "-sS", "--fail", "--create-dirs", "-K", str(config)]
        if len(urls) > 1:
            argv += ["-Z", "--parallel-immediate", "--parallel-max", str(parallel)]
        return self._command(name, argv, repo, origin)

    def aria2c(
        self, repo: str, origin: str, per_file: int, files: int, name: str | None = None
    ) -> Tool | None:
        """aria2c: ``per_file`` connections for each file, ``files`` files at once."""
        if "aria2c" in self.missing:
            return None
        urls = self.urls(repo, origin)
        listing = self.folder / "aria2.txt"
        listing.write_text("".join(f"{url}\n out={path}\n" for path, url in urls.items()))
        argv = [
            "aria2c",
            "-q",
            f"-x{per_file}",
            f"-s{per_file}",
            f"-j{files}",
            "-k1M",
            "--file-allocation=none",
        ]
        argv += [f"--dir={self.out}/to", f"--input-file={listing}", "--no-conf"]
        if origin == "tls":
            argv.append(f"--ca-certificate={self._cert}")
        return self._command(name or f"aria2c -x{per_file} -j{files}", argv, repo, origin)

    def transfer(self, repo: str, origin: str, connections: int = 16) -> Tool | None:
        """hf_transfer: one file."""
        if "hf_transfer" in self.missing:
            return None
        ((path, url),) = self.urls(repo, origin).items()
        arguments = {"url": url, "target": str(self.out / "to" / path), "connections": connections}
        return self.client(
            f"hf_transfer {connections} x 10 MiB", "transfer", json.dumps(arguments), repo, origin
        )

    def bare(self, repo: str, origin: str) -> Tool:
        """One file over one connection by three threads that receive, write and hash: no engine could do less."""
        ((path, url),) = self.urls(repo, origin).items()
        arguments = {"url": url, "target": str(self.out / "to" / path), "sha256": self._digests(repo)[path]}
        return self.client("bare loop, verified", "bare", json.dumps(arguments), repo, origin)

    def _digests(self, repo: str) -> dict[str, str]:
        """sha256 of a repository's LFS files by path."""
        folder = self._files / repo
        return {
            Path(file).relative_to(folder).as_posix(): sha256
            for sha256, file in self.servers.hub.ask(lfs_objects=True).items()
            if Path(file).is_relative_to(folder)
        }

    def client(self, name: str, what: str, arguments: str, repo: str, origin: str) -> Tool:
        """A function of the client that writes to the folder of programs."""
        return Tool(
            name,
            [sys.executable, str(CLIENT), what, arguments],
            self.environment(origin),
            self._check(repo, lambda: self.out / "to"),
            reports=True,
            nbytes=self.nbytes(repo),
        )

    def _command(self, name: str, argv: list[str], repo: str, origin: str) -> Tool:
        check = self._check(repo, lambda: self.out / "to")
        return Tool(name, argv, self.environment(origin), check, nbytes=self.nbytes(repo))

    def _check(self, repo: str, where: Callable[[], Path]) -> Callable[[bool], None]:
        def check(every_byte: bool) -> None:
            folder = where()
            for path, size in self.sizes(repo).items():
                got = (folder / path).stat().st_size
                if got != size:
                    raise ValueError(f"{path} has {got} bytes instead of {size}")
                if every_byte and not filecmp.cmp(self._files / repo / path, folder / path, shallow=False):
                    raise ValueError(f"{path} has other bytes than were served")

        return check

    # ---- turns

    def compare(
        self, result: Result, tools: Sequence[Tool | None], nbytes: int, *, rounds: int | None = None
    ) -> Result:
        """Let the tools take turns, each starting as often in each place of the order as rounds allow."""
        present = [tool for tool in tools if tool is not None]
        print(f"\n{result.name}: {result.title}", file=sys.stderr)
        for number in range(rounds or self.options.rounds):
            self._round(result, present, nbytes, number)
        return result

    def compare_pairs(self, result: Result, tools: Sequence[Tool], nbytes: int) -> Result:
        """The same for pairs: rounds that others disturbed are made up for, by half as many more at the most."""
        pairs = self.options.pairs
        names = [tool.name for tool in tools]
        print(f"\n{result.name}: {result.title}", file=sys.stderr)
        for number in range(pairs + pairs // 2):
            if sum(all(each.undisturbed for each in turn) for turn in result.turns(*names)) >= pairs:
                break
            self._round(result, tools, nbytes, number)
        return result

    def _round(self, result: Result, tools: Sequence[Tool], nbytes: int, number: int) -> None:
        start = number % len(tools) if tools else 0
        for tool in [*tools[start:], *tools[:start]]:
            sample = self.run(tool, nbytes, (result.name, tool.name))
            result.samples.setdefault(tool.name, []).append(sample)
            self._say(result, tool, sample)

    def clear_out(self) -> None:
        """Empty the folder that programs write to."""
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "to").mkdir(parents=True)

    def run(self, tool: Tool, nbytes: int, first: tuple[str, str]) -> Sample:
        """One run, after the machine has come to rest."""
        self.clear_out()
        with contextlib.nullcontext() if self.options.as_is else pages_in_use(int(nbytes * 1.1)):
            quiet(self.options.patience)
            sample = run_tool(
                tool,
                nbytes=nbytes,
                servers=self.servers.pids,
                cwd=self.out,
                timeout=self.options.timeout,
                every_byte=first not in self._seen,
            )
        self._seen.add(first)
        shutil.rmtree(self.out, ignore_errors=True)
        return sample

    @staticmethod
    def _say(result: Result, tool: Tool, sample: Sample) -> None:
        if sample.error:
            line = f"failed: {sample.error}"
        else:
            line = (
                f"{result.value(sample):9.1f} {result.unit}  {sample.seconds:7.2f} s  cpu {sample.user:.2f}+{sample.system:.2f}"
                f"  {sample.peak_mib:6.0f} MiB  others {sample.others:.2f}"
            )
        print(f"  {tool.name:28} {line}", file=sys.stderr, flush=True)


def _fill(path: Path, nbytes: int, seed: int) -> None:
    """Bytes that differ from file to file and from block to block, written at the speed of memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = os.urandom(MIB) if nbytes >= MIB else os.urandom(nbytes)
    with path.open("wb") as out:
        left, number = nbytes, 0
        while left > 0:
            mark = seed.to_bytes(4, "big") + number.to_bytes(4, "big")
            data = (mark + block[number % 251 :] + block[: number % 251])[: min(left, MIB)]
            out.write(data)
            left -= len(data)
            number += 1
    # nginx and huggingface_hub tell files apart by time and size too.
    os.utime(path, (1_700_000_000 + seed, 1_700_000_000 + seed))


@contextlib.contextmanager
def rig_for(options: Options, needs: Sequence[str]) -> Iterator[Rig]:
    """A rig with the repositories that are needed.

    Raises:
        RuntimeError: There is no nginx.
    """
    if shutil.which("nginx") is None:
        raise RuntimeError("these benchmarks need nginx (apt-get install nginx-light libnginx-mod-http-echo)")
    folder = Path(tempfile.mkdtemp(prefix="hf-haul-bench-", dir=options.folder))
    try:
        repos = {}
        seed = 0
        for repo in dict.fromkeys(needs):
            repos[repo] = folder / "files" / repo
            if repo in MAKERS:
                make(repo, repos[repo], quick=options.quick)
                continue
            for path, nbytes in DATA[repo].items():
                seed += 1
                _fill(repos[repo] / path, nbytes // 10 if options.quick and nbytes > MIB else nbytes, seed)
        (folder / "serve").mkdir()
        cert = certificate(folder)
        small = [repo for repo in repos if repo in _SMALL]
        congestion = None if options.as_is else "cubic"
        with serving(
            folder / "serve", folder / "files", repos, small, cert, options.src, congestion
        ) as servers:
            yield Rig(folder, options, servers, cert[0] if cert else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
