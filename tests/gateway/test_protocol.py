"""What one connection may do, over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.responses import StreamingResponse

from gateway import protocol
from gateway.access import Access
from gateway.hot import Exchange, HotEndpoints, Reply

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SMALL_BUFFER_BYTES = 64 * 1024  # the kernel's own would take megabytes for a client that doesn't read
LARGE = bytes(4 * 1024 * 1024)


async def answer_slowly(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_without_end(scope: Any, receive: Any, send: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)
            await asyncio.sleep(0)

    await StreamingResponse(parts())(scope, receive, send)


class Endpoints(HotEndpoints):
    """One hot endpoint, `/hot`, that answers with what it was sent, when the gate is open."""

    def __init__(self) -> None:
        self.access = Access(None, CollectorRegistry())
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = self.cancelled = 0

    def find(self, path: str) -> Any:
        return (self.answer, "echo", None) if path == "/hot" else None

    async def answer(self, exchange: Exchange) -> Reply:
        self.asked += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Reply(exchange.body or b"")


class LargeAnswers(Endpoints):
    """The same, but it answers with more than it was sent."""

    async def answer(self, exchange: Exchange) -> Reply:
        return Reply(LARGE)


@asynccontextmanager
async def serving(
    endpoints: Endpoints | None = None, app: Any = answer_slowly, max_connections: int = 100
) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop="none",
        http=protocol.protocol_of(endpoints or Endpoints(), max_connections),
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def test_a_client_that_pipelines_without_end_is_cut_off() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK * 10)  # some is fine
        for _ in range(10):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(ASK * 2000)
        async with asyncio.timeout(10):
            answered = (await reader.read(-1)).count(b"HTTP/1.1 200")
        assert answered < 2000
        writer.close()


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost:", ASK + b"GET / HT"])
async def test_a_header_that_does_not_come_is_not_waited_for(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(protocol, "_WATCH_S", 0.05)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        async with asyncio.timeout(10):
            await reader.read(-1)  # until the gateway closes
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()


def hot(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /hot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), lines, body)


async def test_hot_requests_and_others_take_turns_on_one_connection() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hot(b"a") + ASK + hot(b"b") + hot(b"c") + ASK)
        for last in (b"a", b"ok"):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(last)) == last
        writer.close()


async def test_a_body_in_pieces_is_put_together() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in hot(b"all of it"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await reader.readuntil(b"all of it")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_a_client_that_leaves_is_no_longer_worked_for() -> None:
    endpoints = Endpoints()
    endpoints.gate.clear()
    async with serving(endpoints) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hot(b"x"))
        while not endpoints.asked:
            await asyncio.sleep(0.001)
        writer.close()
        async with asyncio.timeout(5):
            while not endpoints.cancelled:
                await asyncio.sleep(0.001)


async def test_what_is_no_http_gets_a_json_error() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GARBAGE\r\n\r\n")
        answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'{"error":' in answer
        writer.close()


async def test_connection_close_is_honoured() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hot(b"x", b"Connection: close"))
        async with asyncio.timeout(5):
            assert (await reader.read(-1)).endswith(b"connection: close\r\n\r\nx")
        writer.close()


async def test_a_header_seen_before_is_known_and_its_body_is_read_anew() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in (b"one", b"two", b"six", b"three", b"seven"):
            writer.write(hot(body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(body) in head
            assert await reader.readexactly(len(body)) == body
        writer.close()


@pytest.mark.parametrize("cut", [1, 40, 61, 63])
async def test_a_known_header_that_comes_in_pieces_or_with_more_behind_it_is_read_as_ever(cut: int) -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = hot(b"abc")
        writer.write(request)
        await reader.readuntil(b"abc")
        writer.write(request[:cut])
        await writer.drain()
        await asyncio.sleep(0.02)  # so that the server sees the pieces apart
        writer.write(request[cut:] + ASK)
        await reader.readuntil(b"abc")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(hot(b"abc", b"Connection: close"))
        answer = await reader.read(-1)
        assert b"connection: close" in answer
        assert answer.endswith(b"abc")
        writer.close()


async def test_no_more_than_so_many_headers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_MAX_HEADS", 3)
    made: list[type[protocol.GatewayProtocol]] = []

    def protocol_of(*args: Any) -> type[protocol.GatewayProtocol]:
        made.append(make(*args))
        return made[-1]

    make = protocol.protocol_of
    monkeypatch.setattr(protocol, "protocol_of", protocol_of)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(8):
            writer.write(hot(b"abc", b"X-Request-Id: %d" % number))
            await reader.readuntil(b"abc")
            assert 1 <= len(made[0].heads) <= 3
        writer.close()


async def connect_with_small_buffer(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=client)


UNREAD = {
    "a stream": ASK,
    "a hot answer": hot(b"x"),
    "a hot answer that is the last": hot(b"x", b"Connection: close"),
    "a hot answer and others behind it": hot(b"x") + ASK + hot(b"y"),
}


@pytest.mark.parametrize("case", UNREAD)
async def test_a_client_that_does_not_read_makes_room_for_others(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(protocol, "_WATCH_S", 0.05)
    async with serving(LargeAnswers(), answer_without_end, max_connections=1) as port:
        _, deaf = await connect_with_small_buffer(port)
        deaf.write(UNREAD[case])
        answer = b""
        async with asyncio.timeout(4):  # before a connection that nothing is asked on is closed
            while not answer.startswith(b"HTTP/1.1 200"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with suppress(ConnectionError):
                    writer.write(ASK)
                    answer = await reader.read(12)
                writer.close()
        deaf.close()


async def test_a_client_that_reads_slowly_gets_all_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 1)
    monkeypatch.setattr(protocol, "_WATCH_S", 0.05)
    async with serving(LargeAnswers()) as port:
        reader, writer = await connect_with_small_buffer(port)
        writer.write(hot(b"x"))
        await reader.readuntil(b"\r\n\r\n")
        num_bytes, until = 0, asyncio.get_running_loop().time() + 2.5
        while asyncio.get_running_loop().time() < until:
            num_bytes += len(await reader.read(8 * 1024))
            await asyncio.sleep(0.01)
        assert num_bytes < len(LARGE)
        await reader.readexactly(len(LARGE) - num_bytes)
        writer.close()
