"""How exactly the bandwidth limit holds: bytes really read over the loopback interface, JSON on stdout.

``python -m tests.benchmarks.bench_limiter`` from the top of the repository takes a minute and a half. Each line of the
result is one rate with one number of threads that share one limiter, each with a connection of its own; ``error`` is the
distance from the rate over the whole run, ``worst_second`` the largest excess in any second of it. Exit code 1 if an
error is above five per cent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.transports.pool import ConnectionPool

MB: Final = 10**6
RATES: Final = (1, 10, 100)
THREADS: Final = (1, 4, 16)
ALLOWED: Final = 0.05

#: Sends without end to whoever connects; prints its port.
_SERVER: Final = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
block = bytes(1 << 18)
def serve(sock):
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1000000000000\\r\\n\\r\\n")
    try:
        while True:
            sock.sendall(block)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@contextmanager
def _server() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.kill()


def measure(url: str, megabytes: int, threads: int, seconds: float) -> dict[str, Any]:
    """One rate with one number of threads."""
    limiter, cancel_token = BandwidthLimiter(megabytes * MB), CancelToken()
    reads: list[list[tuple[float, int]]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)

    def work(mine: list[tuple[float, int]]) -> None:
        buffer = memoryview(bytearray(1 << 20))
        with pool.open(url, None, cancel_token) as response:
            ready.wait()
            try:
                while True:
                    got = response.readinto(buffer[: limiter.quantum])
                    limiter.wait(got, cancel_token)
                    mine.append((time.monotonic(), got))
            except StopRequestedError:
                pass

    with ConnectionPool(threads, trust_env=False) as pool:
        workers = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in reads]
        for worker in workers:
            worker.start()
        ready.wait()
        began, cpu = time.monotonic(), time.process_time()
        cancel_token.wait(seconds)
        ended, cpu = time.monotonic(), time.process_time() - cpu
        cancel_token.set()
        for worker in workers:
            worker.join()
    done = sorted((at, got) for mine in reads for at, got in mine if at <= ended)
    total = sum(got for _, got in done)
    windows = [0] * int(ended - began)
    for at, got in done:
        if 0 <= at - began < len(windows):
            windows[int(at - began)] += got
    shares = [sum(got for _, got in mine) for mine in reads]
    rate = megabytes * MB
    return {
        "limit_mb_s": megabytes,
        "threads": threads,
        "measured_mb_s": round(total / (ended - began) / MB, 3),
        "error": round(abs(total / (ended - began) / rate - 1), 4),
        "worst_second": round(max(windows, default=0) / rate - 1, 4),
        "smallest_share": round(min(shares) * threads / sum(shares), 3),
        "cpu_seconds_per_gb": round(cpu / (total / 10**9), 2),
    }


def main() -> int:
    """Measure all pairs; 0 if every error is within bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run (%(default)s)")
    parser.add_argument("--rate", type=int, action="append", help="MB/s; may be repeated (1, 10, 100)")
    parser.add_argument("--threads", type=int, action="append", help="may be repeated (1, 4, 16)")
    given = parser.parse_args()
    rows = []
    with _server() as url:
        for rate in given.rate or RATES:
            for threads in given.threads or THREADS:
                rows.append(measure(url, rate, threads, given.seconds))
                print(json.dumps(rows[-1]), file=sys.stderr)
    held = all(row["error"] <= ALLOWED for row in rows)
    print(json.dumps({"allowed_error": ALLOWED, "held": held, "rows": rows}, indent=2))
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
