"""The page of a lab's server, in a browser without a window.

Needs Chromium, which is not installed for this: where it is missing, the tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from tests.support.labs import LabServer, lab_before

from hf_haul.config import Settings
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.faults import Stall

MIB = 1 << 20
WEIGHTS = bytes(4 * MIB)
ODD = "<img src=x onerror=document.title='owned'>.txt"


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


class Page:
    """A page in a browser, which scripts can ask."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self._ask = ask

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        options = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._ask("Runtime.evaluate", options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Wait until an expression in the page is true, and return its value."""
        found = self.run(
            f"""new Promise((done) => {{
                const end = Date.now() + 15000;
                const look = () => {{
                    let value = false;
                    try {{ value = {script}; }} catch {{ /* not loaded yet */ }}
                    if (value || Date.now() > end) done(value); else setTimeout(look, 50);
                }};
                look();
            }})"""
        )
        assert found, f"{script} did not come true: {self.run('document.body.innerText')}"
        return found

    def text(self, place: str) -> str:
        """Return what can be read at a place."""
        return str(self.run(f"document.querySelector({json.dumps(place)}).innerText"))

    def picture(self) -> str:
        """Return a PNG of the page, in base64."""
        return str(self._ask("Page.captureScreenshot", {"captureBeyondViewport": True})["data"])


@contextmanager
def opened(url: str, profile: Path) -> Iterator[Page]:
    """Open a page in a browser."""
    argv = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    argv += [
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        "--no-first-run",
        "--disable-extensions",
    ]
    argv += ["--proxy-server=direct://", "--window-size=1100,1000", "about:blank"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as browser:
        assert browser.stderr is not None
        port = next(
            line.rsplit(":", 1)[1].partition("/")[0]
            for line in browser.stderr
            if "DevTools listening" in line
        )
        threading.Thread(
            target=browser.stderr.read, daemon=True
        ).start()  # or it would stop once the pipe is full
        try:
            with _connected(int(port)) as ask:
                ask(
                    "Page.navigate", {"url": url}
                )  # which answers once the page has taken the place of the blank one
                yield Page(ask)
        finally:
            browser.kill()


@contextmanager
def _connected(port: int) -> Iterator[Callable[[str, dict[str, Any]], dict[str, Any]]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    numbers = iter(range(1, 10_000))

    async def connect() -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
        session = aiohttp.ClientSession()
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            pages = [each for each in await answer.json() if each["type"] == "page"]
        return session, await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)

    session, socket = asyncio.run_coroutine_threadsafe(connect(), loop).result(20)

    async def exchange(method: str, options: dict[str, Any]) -> dict[str, Any]:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": options})
        while True:
            answer: dict[str, Any] = json.loads((await socket.receive()).data)
            if answer.get("id") == number:
                found: dict[str, Any] = answer["result"]
                return found

    try:
        yield lambda method, options: asyncio.run_coroutine_threadsafe(
            exchange(method, options), loop
        ).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(session.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def upstream() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit({"model.safetensors": WEIGHTS, "config.json": b"{}", ODD: b"odd"})
    with LocalHub(repo) as hub:
        yield hub


@pytest.fixture
def lab(upstream: LocalHub, tmp_path: Path) -> Iterator[LabServer]:
    settings = Settings(give_up_after=60.0, stall_timeout=60.0, max_concurrent_downloads=8)
    with lab_before(
        upstream, tmp_path / "served", token="t0ken", settings=settings, max_size=10**9
    ) as served:
        yield served


def test_the_page_shows_what_moves_and_steers_it(lab: LabServer, upstream: LocalHub, tmp_path: Path) -> None:
    chromium()
    # So early that all connections together do not bring the file.
    stall = upstream.faults.add(Stall(after=MIB // 8), kind="cdn", path="model.safetensors", times=None)
    headers = {"Authorization": "Bearer t0ken"}
    with requests.get(
        f"{lab.url}/org/m/resolve/main/model.safetensors", headers=headers, stream=True, timeout=60
    ) as client:
        assert stall.wait()
        client.raw.read(1000)
        with opened(lab.url, tmp_path / "profile") as page:
            page.wait_for("!document.getElementById('login').hidden")
            assert page.text("#state") == "asks for a token"
            assert page.run("document.getElementById('main').hidden") is True
            for token, state in (("wrong", "this is not the token"), ("t0ken", "live")):
                page.run(
                    f"document.getElementById('token').value = {token!r};"
                    " document.querySelector('#login button').click()"
                )
                page.wait_for(f"document.getElementById('state').innerText === {state!r}")
            assert page.wait_for("document.querySelectorAll('#fetching tbody button').length") == 1
            row = page.text("#fetching tbody")
            assert "org/m / model.safetensors" in row
            assert "of 4.19 MB" in row
            assert "127.0.0.1" in page.text("#sending tbody")
            assert "org/m\tmain" in page.text("#cache tbody")
            assert "0 of 3" in page.text("#cache tbody")

            page.run("document.getElementById('pause').click()")
            page.wait_for("document.getElementById('state').innerText === 'fetching is paused'")
            assert page.text("#pause") == "Resume fetching"
            assert lab.lab.fetches is not None
            assert lab.lab.fetches.paused
            page.run("document.getElementById('pause').click()")
            page.wait_for("document.getElementById('state').innerText === 'live'")
            assert not lab.lab.fetches.paused

            page.run(
                "document.querySelector('#limit-in input').value = '5MB/s';"
                " document.querySelector('#limit-in button').click()"
            )
            page.wait_for("document.getElementById('figures').innerText.includes('5.00 MB/s')")
            assert lab.lab.fetches.manager.max_bandwidth_bps == 5_000_000

            requests.get(f"{lab.url}/org/m/resolve/main/{ODD}", headers=headers, timeout=30)
            assert page.picture()
            page.run("document.querySelector('#fetching tbody button').click()")
            page.wait_for("document.querySelector('#fetching tbody').innerText === 'nothing'")
            assert list(lab.lab.fetches) == []
            assert page.run("document.title") == "hf-haul serve"


def test_a_page_without_a_token_steers_nothing_and_runs_nothing_but_its_own(
    upstream: LocalHub, tmp_path: Path
) -> None:
    chromium()
    with lab_before(upstream, tmp_path / "served") as lab:
        html = requests.get(lab.url, headers={"Accept": "text/html"}, timeout=20)
        assert "default-src 'none'" in html.headers["Content-Security-Policy"]
        with opened(lab.url, tmp_path / "profile") as page:
            page.wait_for("document.getElementById('state').innerText === 'live'")
            assert page.run("document.getElementById('steer').hidden") is True
            assert page.run("document.getElementById('locked').hidden") is False
            # What is not the page's own is not run.
            page.run(
                "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))"
            )
            assert page.run("document.title") == "hf-haul serve"
