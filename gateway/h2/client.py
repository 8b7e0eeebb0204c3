"""A gRPC client for unary calls to one server, over our own HTTP/2: many calls on one connection, little cost a call.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import unquote

import grpc

from gateway.h2.connection import ANNOUNCED, Connection, Fields, Stream
from gateway.h2.frame import (
    DATA,
    ENABLE_PUSH,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PREFACE,
    Code,
    ProtocolError,
    frame,
    header_block,
    reset,
    settings,
    window_update,
)

_CONNECT_TIMEOUT_S = 5.0
_BACKOFF_S = (0.1, 1.0)
_MAX_STREAM = MAX_WINDOW - 1000
_PREFIX_BYTES = 5
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallError(Exception):
    """A call ended without an answer. `unsent`: the server surely didn't begin to work on it."""

    def __init__(self, code: grpc.StatusCode, details: str, *, unsent: bool = False) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.unsent = unsent


class GrpcChannel:
    """A server at `host:port`; the connection is made at the first call, and again when it was lost."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._blocks: dict[str, bytes] = {}

    async def unary(
        self, path: str, message: bytes, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """The answer's message; raises CallError. Cancelling the caller, or the deadline, gives the stream up."""
        deadline = time.monotonic() + timeout_s
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connected(deadline)
        if len(connection.streams) >= connection.peer_max_streams:
            await connection.wait_for_stream(deadline)
        return await connection.call(self._block(path, timeout_s, metadata), message, deadline)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.transport.close()

    def _block(self, path: str, timeout_s: float, metadata: Sequence[tuple[str, str]]) -> bytes:
        block = self._blocks.get(path)
        if block is None:
            block = self._blocks[path] = header_block(
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", f"{self._host}:{self._port}".encode()),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
                (b"user-agent", b"tidegate"),
            )
        timeout = b"%dm" % min(max(int(timeout_s * 1000), 1), 99_999_999)
        fields = header_block((b"grpc-timeout", timeout), *((k.encode(), v.encode()) for k, v in metadata))
        return block + fields

    async def _connected(self, deadline: float) -> "_Connection":
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "no connection in time", unsent=True) from None
        except OSError as exc:
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"no connection: {exc}", unsent=True) from exc

    async def _connect(self) -> "_Connection":
        if time.monotonic() < self._not_before:  # it has just failed: say so at once instead of hammering
            raise ConnectionRefusedError("the last attempt failed a moment ago")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except (OSError, TimeoutError) as exc:
            least, most = _BACKOFF_S
            self._not_before = time.monotonic() + min(least * 2**self._failures, most)
            self._failures = min(self._failures + 1, 10)
            raise ConnectionRefusedError(str(exc) or "timed out") from exc
        self._failures = 0
        return connection

    def _has_connected(self, task: "asyncio.Task[_Connection]") -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()


class _Call(Stream):
    __slots__ = ("done", "fields", "parts")

    def __init__(self, number: int, window: int, done: "asyncio.Future[bytes]") -> None:
        super().__init__(number, window)
        self.done = done
        self.parts: list[bytes] = []
        self.fields: Fields | None = None

    def fail(self, code: grpc.StatusCode, details: str, *, unsent: bool = False) -> None:
        if not self.done.done():
            self.done.set_exception(CallError(code, details, unsent=unsent))

    def end(self, fields: Fields) -> None:
        """Set the result, from the headers or trailers that end the stream."""
        if self.done.done():
            return
        status = fields.get("grpc-status", "")
        code = _CODES.get(int(status), grpc.StatusCode.UNKNOWN) if status.isdecimal() else grpc.StatusCode.UNKNOWN
        if code is not grpc.StatusCode.OK:
            http = fields.get(":status", "200")
            details = unquote(fields.get("grpc-message", "")) or (f"HTTP status {http}" if http != "200" else "")
            self.fail(grpc.StatusCode.UNAVAILABLE if http in ("502", "503", "504") else code, details)
            return
        message = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        size = int.from_bytes(message[1:_PREFIX_BYTES], "big")
        if len(message) != _PREFIX_BYTES + size or message[0]:
            self.fail(grpc.StatusCode.INTERNAL, "the server's answer is no whole, plain message")
            return
        self.done.set_result(message[_PREFIX_BYTES:])


class _Connection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._next = 1
        self._ended = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether new calls may begin."""
        return not self.closing and not self.transport.is_closing() and self._next < _MAX_STREAM

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        super().connection_made(transport)
        ours = (*ANNOUNCED, (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, MAX_WINDOW))
        self.transport.write(PREFACE + settings(ours) + window_update(0, MAX_WINDOW - 65_535))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self.closing = True
        for call in tuple(self.streams.values()):
            call.fail(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
        self.streams.clear()
        self._ended.set()

    async def wait_for_stream(self, deadline: float) -> None:
        """Wait until the server takes one more; raises CallError."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while len(self.streams) >= self.peer_max_streams and self.usable:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the server took no more calls in time", unsent=True
            ) from None

    async def call(self, block: bytes, message: bytes, deadline: float) -> bytes:
        """One unary call."""
        if not self.usable:
            raise CallError(grpc.StatusCode.UNAVAILABLE, "the connection was lost", unsent=True)
        number = self._next
        self._next += 2
        done: asyncio.Future[bytes] = self._loop.create_future()
        call = self.streams[number] = _Call(number, self.peer_window, done)
        timer = self._loop.call_at(self._loop.time() + deadline - time.monotonic(), self._expire, call)
        try:
            head = self.headers(number, 0, block)
            data = b"\x00" + len(message).to_bytes(4, "big") + message
            if self.fits(call, len(data)):
                self.spend(call, len(data))
                self.transport.write(head + frame(DATA, END_STREAM, number, data))
            else:
                self.transport.write(head)
                await self._send_until_done(call, data)
            return await done
        finally:
            timer.cancel()
            if self.streams.pop(number, None) is not None and not self.transport.is_closing():
                self.transport.write(reset(number, Code.CANCEL))
            self._ended.set()

    async def _send_until_done(self, call: _Call, data: bytes) -> None:
        """Send a large message; the call may end (deadline, refusal) before all of it is sent."""
        sending = asyncio.ensure_future(self.send(call, data, END_STREAM))
        try:
            await asyncio.wait((sending, call.done), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()

    def on_headers(self, stream: int, fields: Fields, ended: bool) -> None:
        """Take headers or trailers."""
        call: _Call | None = self.streams.get(stream)
        if call is None:
            return
        if ended:
            del self.streams[stream]
            call.end({**(call.fields or {}), **fields})
        else:
            call.fields = fields

    def on_data(self, stream: int, data: bytes, ended: bool) -> None:
        """Take a part of an answer."""
        call: _Call | None = self.streams.get(stream)
        if call is None:
            return
        call.parts.append(data)
        if ended:
            del self.streams[stream]
            call.end(call.fields or {})

    def on_reset(self, stream: int, code: int) -> None:
        """Fail a call that the server gave up."""
        call: _Call | None = self.streams.pop(stream, None)
        if call is not None:
            refused = code == Code.REFUSED_STREAM
            status = grpc.StatusCode.CANCELLED if code == Code.CANCEL else grpc.StatusCode.UNAVAILABLE
            call.fail(status, f"the server reset the stream ({code})", unsent=refused)

    def on_goaway(self, last_stream: int) -> None:
        """Begin no more calls; those that the server won't serve can safely be sent elsewhere."""
        self.closing = True
        for number in [number for number in self.streams if number > last_stream]:
            self.streams.pop(number).fail(grpc.StatusCode.UNAVAILABLE, "the server is going away", unsent=True)
        if not self.streams:
            self.transport.close()

    def _expire(self, call: _Call) -> None:
        call.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time")

    def _check_opened(self, stream: int) -> None:
        if stream == 0 or stream >= self._next:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a frame on a stream that was never opened")
