"""The other side: nginx for the bytes, local Hubs for the metadata, each in a process of its own, on loopback.

**Pace.** A fair pace is set per connection, not per request: nginx's ``limit_rate`` starts over with each request
and lets short ranges through at full speed. Linux hands ``SO_MAX_PACING_RATE`` on from a listening socket to what it
accepts, and nginx takes listening sockets that are open already (the ``NGINX`` variable, made for upgrades). So
the sockets are opened here, with their pace, and no module and no compiler is needed.

**Congestion control** is set in the same way: Linux's own default, cubic. A machine may have been given another one;
BBR wakes the sender by timers, and on loopback takes a tenth of two cores for it.

**Hub.** LFS files go out as the Hub gives them: the local Hub answers 302 with a signed URL that leads to nginx. For
many small files, nginx also stands before the local Hub and gives the files themselves, with the headers that
the local Hub gave when asked once for each: 2,000 files are then no test of the server. ``echo_sleep`` makes a round
trip last.

**Link.** What reads are measured over: a Hub and an origin for LFS files, both at :data:`LINK_PACE` bytes per second for each
connection and with :data:`ROUND_TRIP` seconds before every answer. nginx notes each of its answers, so that requests and
bytes are counted where they are served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from tests.benchmarks.harness import KIB, MB

__all__ = [
    "LINK_PACE",
    "PACE",
    "ROUND_TRIP",
    "TWO_ADDRESSES",
    "Hub",
    "LinkLog",
    "Nginx",
    "Servers",
    "certificate",
    "dead_address",
    "serving",
]

#: Bytes per second of one connection of the paced origin.
PACE: Final = 20 * MB
#: The same of the link that reads are measured over.
LINK_PACE: Final = 10 * MB
#: Seconds of the long round trip.
ROUND_TRIP: Final = 0.05
#: Bytes that the system holds for a connection of the link: what counts as sent and may not have arrived.
_LINK_BUFFER: Final = 128 * KIB
#: A name that the certificate holds and no resolver knows.
TWO_ADDRESSES: Final = "two-addresses.test"
_SO_MAX_PACING_RATE: Final = 47
_ECHO: Final = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")


def certificate(folder: Path) -> tuple[Path, Path] | None:
    """A certificate for 127.0.0.1 that signs itself, and its key; ``None`` without ``openssl``."""
    if shutil.which("openssl") is None:
        return None
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    # No CA flag: rustls refuses a CA as a server's own certificate.
    names = [
        "-addext",
        f"subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:{TWO_ADDRESSES}",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]
    files = ["-out", str(cert), "-keyout", str(key)]
    subprocess.run([*words, *names, *files], check=True, capture_output=True)
    return cert, key


@dataclass(frozen=True)
class Nginx:
    """A running nginx.

    Attributes:
        pids: Its processes.
        origins: Where the files are, by name: ``plain``; ``paced``, :data:`PACE` bytes per second for each connection;
            with ``openssl`` also ``tls`` and ``paced-tls``; ``link``.
        hubs: Origins that stand before a local Hub, by name: ``front``, with ``openssl`` also ``front-tls``; ``far``; ``link``.
        log: What ``link`` was asked.
    """

    pids: tuple[int, ...]
    origins: dict[str, str]
    hubs: dict[str, str]
    log: LinkLog


class LinkLog:
    """The answers that nginx gave over the link, from its own notes.

    Args:
        path: Where it notes them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """Where the notes end now."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(self, mark: int, *, still: float = 0.15) -> dict[str, int]:
        """What was noted since a mark, once nothing is noted any more for ``still`` seconds.

        Returns:
            ``requests``; ``redirects`` and questions for metadata (``api``) among them; body bytes of files (``moved``).
        """
        end, at = self.mark(), time.monotonic()
        began = at
        while time.monotonic() - at < still and time.monotonic() - began < 10:
            time.sleep(0.01)
            if self.mark() != end:
                end, at = self.mark(), time.monotonic()
        counts = {"requests": 0, "redirects": 0, "api": 0, "moved": 0}
        if not self._path.exists():
            return counts
        with self._path.open() as lines:
            lines.seek(mark)
            for line in lines:
                status, nbytes, url = line.split(" ", 2)
                counts["requests"] += 1
                counts["redirects"] += status.startswith("3")
                if url.startswith("/api/") and not url.startswith("/api/resolve-cache/"):
                    counts["api"] += 1
                elif status.startswith(("2", "499")):
                    counts["moved"] += int(nbytes)
        return counts


class Hub:
    """Local Hubs in one process of their own, one for each origin that bytes can come from.

    Attributes:
        pid: The process.
        urls: The Hub's URL by the name of the origin.
    """

    def __init__(self, repos: dict[str, Path], origins: dict[str, str], src: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "hub_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(src)},
        )
        self.pid = self._process.pid
        self.urls: dict[str, str] = self.ask(
            repos={name: str(folder) for name, folder in repos.items()}, origins=origins
        )

    def ask(self, **question: Any) -> Any:
        """Send one question to the process, and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the local Hub has ended")
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@dataclass(frozen=True)
class Servers:
    """Everything that is served.

    Attributes:
        nginx: The files.
        hub: The metadata.
        by_sha: Folder that nginx serves below ``/lfs``: files by their sha256.
    """

    nginx: Nginx
    hub: Hub
    by_sha: Path

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of all servers."""
        return (*self.nginx.pids, self.hub.pid)


@contextlib.contextmanager
def dead_address(port: int) -> Iterator[str]:
    """An address of this machine that answers nothing on ``port`` while the block runs, not even with a refusal.

    Linux drops what asks for a connection while a listening socket has as many as it may keep that nobody accepts.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(16):
            visitor = stack.enter_context(socket.socket())
            visitor.settimeout(0.2)
            try:
                visitor.connect(listener.getsockname())
            except TimeoutError:
                yield "127.0.0.2"
                return
        raise RuntimeError("this system goes on accepting connections for whoever does not")


def _listener(congestion: str | None, pace: int | None = None, buffer: int | None = None) -> socket.socket:
    listener = socket.socket()
    if buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    if congestion is not None:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(511)
    if pace is not None:
        listener.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, pace)
    return listener


def _is_tls(name: str) -> bool:
    return name.endswith("tls")


def _origins(listeners: dict[str, socket.socket]) -> dict[str, str]:
    return {
        name: f"{'https' if _is_tls(name) else 'http'}://127.0.0.1:{each.getsockname()[1]}"
        for name, each in listeners.items()
    }


@contextlib.contextmanager
def serving(
    folder: Path,
    files: Path,
    repos: dict[str, Path],
    small: Sequence[str],
    cert: tuple[Path, Path] | None,
    src: Path,
    congestion: str | None,
) -> Iterator[Servers]:
    """Run nginx and the Hubs until the block ends.

    Args:
        folder: For configuration, logs and temporary files.
        files: What nginx serves by name below ``/files``.
        repos: Folders by repository id; their LFS files come from nginx.
        small: Repositories of small files, which nginx gives itself.
        cert: Certificate and key for TLS.
        src: Where ``hf_haul`` is.
        congestion: Congestion control of what nginx sends; ``None`` for the machine's own.
    """
    by_sha = folder / "lfs"
    by_sha.mkdir(parents=True)
    for repo in small:
        link = folder / "small" / repo
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repos[repo])
    sockets = {"plain": _listener(congestion), "paced": _listener(congestion, PACE)}
    if cert is not None:
        sockets |= {"tls": _listener(congestion), "paced-tls": _listener(congestion, PACE)}
    if _ECHO.exists():
        sockets["link"] = _listener(congestion, LINK_PACE, _LINK_BUFFER)
    origins = _origins(sockets)
    hub = Hub(repos, origins, src)
    try:
        for sha, path in hub.ask(lfs_objects=True).items():
            (by_sha / sha).symlink_to(path)
        fronts = {"front": _listener(congestion)}
        if cert is not None:
            fronts["front-tls"] = _listener(congestion)
        if _ECHO.exists():
            fronts["far"] = _listener(congestion)
            fronts["link"] = _listener(congestion, LINK_PACE, _LINK_BUFFER)
        maps = [_harvest(hub, repo, repos[repo]) for repo in small]
        config = _config(folder, files, sockets, fronts, cert, hub.urls, maps)
        with _nginx(folder, config, [*sockets.values(), *fronts.values()]) as pids:
            yield Servers(Nginx(pids, origins, _origins(fronts), LinkLog(folder / "link.log")), hub, by_sha)
    finally:
        hub.close()


@contextlib.contextmanager
def _nginx(folder: Path, config: str, listeners: Sequence[socket.socket]) -> Iterator[tuple[int, ...]]:
    path = folder / "nginx.conf"
    path.write_text(config)
    fds = [each.fileno() for each in listeners]
    process = subprocess.Popen(
        ["nginx", "-c", str(path), "-p", str(folder)],
        pass_fds=fds,
        env={**os.environ, "NGINX": "".join(f"{fd};" for fd in fds)},
        stderr=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 10
        while not (workers := children.read_text().split()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {(folder / 'error.log').read_text()[-800:]}")
            time.sleep(0.02)
        yield (process.pid, *map(int, workers))
    finally:
        process.terminate()
        process.wait(20)


def _harvest(hub: Hub, repo: str, folder: Path) -> tuple[str, str, dict[str, str]]:
    """The commit of a repository, and the ETag of each of its files, asked from the local Hub itself."""
    base = hub.urls["plain"]
    commit = requests.get(f"{base}/api/models/{repo}", timeout=30).json()["sha"]
    etags = {}
    with requests.Session() as session:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            if not re.fullmatch(r"[\w./-]+", name):
                raise ValueError(f"{name!r}: nginx's configuration is kept simple, so names have to be")
            answer = session.head(f"{base}/{repo}/resolve/{commit}/{name}", allow_redirects=False, timeout=30)
            if answer.status_code != 307:
                raise ValueError(
                    f"{name}: expected a git file of a public repository, got {answer.status_code}"
                )
            etags[name] = answer.headers["X-Linked-Etag"].strip('"')
    return repo, commit, etags


def _config(
    folder: Path,
    files: Path,
    sockets: dict[str, socket.socket],
    fronts: dict[str, socket.socket],
    cert: tuple[Path, Path] | None,
    hubs: dict[str, str],
    maps: Sequence[tuple[str, str, dict[str, str]]],
) -> str:
    def listen(name: str, each: socket.socket) -> str:
        return f"listen 127.0.0.1:{each.getsockname()[1]}{' ssl' if _is_tls(name) else ''};"

    tls = f"ssl_certificate {cert[0]}; ssl_certificate_key {cert[1]}; ssl_protocols TLSv1.3;" if cert else ""
    etags = "\n".join(f'"{repo}/{name}" {etag};' for repo, _, known in maps for name, etag in known.items())
    sizes = "\n".join(
        f'"{repo}/{name}" {(folder / "small" / repo / name).stat().st_size};'
        for repo, _, known in maps
        for name in known
    )
    commits = "\n".join(f'"{repo}" {commit};' for repo, commit, _ in maps)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/tmp-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    module = f"load_module {_ECHO};" if "far" in fronts else ""
    common = _front(folder, hubs["plain"])
    link = (
        _link(
            folder,
            listen("link", sockets["link"]),
            listen("link", fronts["link"]),
            [repo for repo, *_ in maps],
        )
        if "link" in fronts
        else ""
    )
    upstream = (
        f"upstream link_hub {{ server {urlsplit(hubs['link']).netloc}; keepalive 64; }}"
        if "link" in fronts
        else ""
    )
    far = (
        f"""
    server {{
        {listen("far", fronts["far"])}
        location / {{ echo_sleep {ROUND_TRIP}; echo_exec /now$uri?$args; }}
        {common}
    }}"""
        if "far" in fronts
        else ""
    )
    return f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
{module}
events {{ worker_connections 4096; }}
http {{
    {temporary}
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
    keepalive_requests 10000000; keepalive_timeout 120s; open_file_cache max=20000;
    default_type application/octet-stream;
    map_hash_max_size 131072; map_hash_bucket_size 256; proxy_buffers 64 64k;
    map $repo/$path $oid {{ default ""; {etags} }}
    map $repo/$path $bytes {{ default 0; {sizes} }}
    map $repo $commit {{ default ""; {commits} }}
    {tls}
    server {{
        {" ".join(listen(name, each) for name, each in sockets.items() if name != "link")}
        location /files/ {{ alias {files}/; }}
        location ~ ^/lfs/[^/]+/(?<sha>[0-9a-f]+)$ {{ alias {folder}/lfs/$sha; etag off; add_header ETag '"$sha-1"'; }}
    }}
    server {{
        {" ".join(listen(name, each) for name, each in fronts.items() if name not in {"far", "link"})}
        location / {{ rewrite ^ /now$uri; }}
        {common}
    }}
    {far}
    log_format link '$status $body_bytes_sent $request_uri';
    {upstream}
    {link}
}}
"""


def _link(folder: Path, origin: str, front: str, small: Sequence[str]) -> str:
    """The Hub and the origin of LFS files that reads are measured over."""
    late = f"echo_sleep {ROUND_TRIP}; echo_exec /now$uri?$args;"
    names = "|".join(re.escape(repo) for repo in small)
    given = _given(folder, names) if small else ""
    return f"""
    server {{
        {origin}
        access_log {folder}/link.log link;
        location / {{ {late} }}
        location ~ ^/now/lfs/[^/]+/(?<sha>[0-9a-f]+)$ {{
            internal; alias {folder}/lfs/$sha; etag off; add_header ETag '"$sha-1"';
        }}
    }}
    server {{
        {front}
        access_log {folder}/link.log link;
        location / {{ {late} }}
        {given}
        location ~ ^/now(?<rest>/.*)$ {{
            internal;
            proxy_pass http://link_hub$rest$is_args$args; proxy_set_header Host $http_host;
            proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}"""


def _front(folder: Path, hub: str) -> str:
    """What a front gives: the files' redirects and bytes itself, everything else from the local Hub."""
    return f"""
        {_given(folder, "[^/]+/[^/]+")}
        location ~ ^/now(?<rest>/api/.*)$ {{
            internal;
            proxy_pass http://{urlsplit(hub).netloc}$rest$is_args$args; proxy_set_header Host $http_host;
        }}"""


def _given(folder: Path, names: str) -> str:
    """The redirects and bytes of the files of some repositories, whose names match a pattern."""
    location = "/api/resolve-cache/models/$repo/$commit/$path?%2F$repo%2Fresolve=&etag=%22$oid%22"
    return f"""
        location ~ ^/now/(?<repo>{names})/resolve/[^/]+/(?<path>.+)$ {{
            internal;
            add_header X-Repo-Commit $commit always; add_header X-Linked-Size $bytes always;
            add_header X-Linked-Etag '"$oid"' always;
            absolute_redirect off;
            return 307 "{location}";
        }}
        location ~ ^/now/api/resolve-cache/models/(?<repo>{names})/[0-9a-f]+/(?<path>.+)$ {{
            internal;
            alias {folder}/small/$repo/$path; etag off;
            add_header ETag '"$oid"'; add_header X-Repo-Commit $commit;
        }}"""
