"""What is decided about sending, and how a connection is ended."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from tests.support.hub import make_certificate

from hf_haul.localhub.objects import FileContent
from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.sending import Delivery, abort, open_content


@pytest.mark.parametrize(
    ("plan", "sent", "expected"),
    [
        pytest.param(Delivery(), 0, None, id="nothing planned"),
        pytest.param(Delivery(cut_after=0), 0, 0, id="at once"),
        pytest.param(Delivery(cut_after=10, stall_after=5), 0, 5, id="the first of two"),
        pytest.param(Delivery(cut_after=10, stall_after=5), 6, 10, id="the second of two"),
        pytest.param(Delivery(reset_after=5), 6, None, id="over"),
    ],
)
def test_the_next_thing_that_happens_is_the_nearest_one(
    plan: Delivery, sent: int, expected: int | None
) -> None:
    assert plan.next_stop(sent) == expected


@pytest.mark.parametrize(
    ("change", "refusal"), [("size", (500, None)), ("time", (500, None)), ("gone", (404, "EntryNotServed"))]
)
def test_a_file_that_is_not_what_it_was_is_refused(
    tmp_path: Path, change: str, refusal: tuple[int, str | None]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"data")
    content = FileContent(path)
    open_content(content).close()
    if change == "size":
        path.write_bytes(b"longer")
        os.utime(path, ns=(content.mtime_ns, content.mtime_ns))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(Refusal) as refused:
        open_content(content)
    assert (refused.value.status, refused.value.code) == refusal


class _Server(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"x" * (16 << 20))  # more than the kernel takes at once

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "closed", ["no", "with bytes to send", "twice", "and all was sent", "twice, and all was sent"]
)
def test_a_connection_can_be_aborted_in_whatever_state_it_is(
    closed: str, secure: bool, certificate: tuple[Path, Path]
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ends: list[_Server] = []
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
        trust = ssl.create_default_context(cafile=certificate[0])
        server = await loop.create_server(
            lambda: ends.append(_Server()) or ends[-1], "127.0.0.1", 0, ssl=tls if secure else None
        )
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust if secure else None)
        await reader.readexactly(1)
        (end,) = ends
        for _time in range({"no": 0}.get(closed, 2 if "twice" in closed else 1)):
            end.transport.close()
        if closed.endswith("all was sent"):
            await reader.read()
            await end.lost
        abort(end.transport)
        if not (secure and closed == "twice"):  # such a transport has forgotten its connection
            await end.lost
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(run(), 30))
