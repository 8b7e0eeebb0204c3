"""A service of bytes, on a real grpc.aio server, on our own, and a socket that answers as a test likes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.http2 import frame as f
from gateway.http2.client import CallError, GrpcChannel
from gateway.http2.server import GrpcServer

LARGE = bytes(range(256)) * (20 * 1024 * 4)
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
ECHO, WAIT, FAIL, TIME = (f"/test.Service/{name}" for name in ("Echo", "Wait", "Fail", "Time"))

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Behaviour:
    """What both servers serve: bytes in, bytes out."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.gate = asyncio.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.entered.release()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return request

    async def fail(self, request: bytes, context: Any) -> None:
        details = "x" * int(request) if request else "größer als 100 %\n"
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, details)

    async def time(self, request: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata())
        return f"{context.time_remaining():.3f} {sent.get('x-tag')} {sent.get('x-raw-bin')!r}".encode()

    def handlers(self) -> dict[str, Any]:
        functions = {"Echo": self.echo, "Wait": self.wait, "Fail": self.fail, "Time": self.time}
        return {name: grpc.unary_unary_rpc_method_handler(function) for name, function in functions.items()}


@asynccontextmanager
async def theirs(behaviour: Behaviour, *options: tuple[str, Any]) -> AsyncIterator[int]:
    server = grpc.aio.server(options=(*UNLIMITED, *options))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", behaviour.handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def ours(behaviour: Behaviour, port: int = 0, **settings: Any) -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", port))
    server = GrpcServer(**({"max_message_bytes": 2 * len(LARGE)} | settings))
    server.add_registered_method_handlers("test.Service", behaviour.handlers())
    await server.start(sock)
    try:
        yield sock.getsockname()[1]
    finally:
        await server.stop(0)


@asynccontextmanager
async def channel_to(port: int) -> AsyncIterator[GrpcChannel]:
    channel = GrpcChannel("127.0.0.1", port)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def raw_server(answer: Answer, greeting: bytes = f.settings({})) -> AsyncIterator[int]:
    """A server that has read the preface, sent its greeting, and then does as it likes."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(len(f.PREFACE))
            writer.write(greeting)
            await answer(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def request_of(reader: asyncio.StreamReader) -> int:
    """Read up to the end of the next request; returns its stream."""
    while True:
        head, flags, stream_id = f.HEAD.unpack(await reader.readexactly(f.HEAD_BYTES))
        await reader.readexactly(head >> 8)
        if head & 0xFF == f.DATA and flags & f.END_STREAM:
            return int(stream_id)


async def error_of(call: Awaitable[bytes]) -> CallError:
    with pytest.raises(CallError) as error:
        await call
    return error.value
