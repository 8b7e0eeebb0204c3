"""A gRPC server for generated servicers, over our own HTTP/2: a small call costs it about a tenth of grpc.aio's.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import logging
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import quote

import grpc

from gateway.h2.connection import ANNOUNCED, Connection, Fields, Stream
from gateway.h2.frame import (
    DATA,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PREFACE,
    Code,
    ProtocolError,
    frame,
    goaway,
    header_block,
    reset,
    settings,
    window_update,
)

log = logging.getLogger(__name__)

PREFACE_TIMEOUT_S = 10.0
MESSAGE_TIMEOUT_S = 30.0  # for a request to arrive whole

_WATCH_S = 5.0
_WINDOW = 1024 * 1024
_CONNECTION_WINDOW = 16 * 1024 * 1024
_MAX_RESETS = 1000  # that a client may have saved up; it earns _RESETS_PER_S
_RESETS_PER_S = 200.0
_MAX_PENDING_MESSAGES = 16  # of one request stream
_PREFIX_BYTES = 5
_OK = grpc.StatusCode.OK
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_RESPONSE = header_block((b":status", b"200"), (b"content-type", b"application/grpc"))
_TRAILERS = header_block((b"grpc-status", b"0"))
_ENDED = None


class Abort(Exception):
    """A servicer ended its call with a status."""


class GrpcServer:
    """Serves what generated `add_…Servicer_to_server` functions add to it."""

    def __init__(self, *, max_message_bytes: int, max_streams: int = 256) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_streams = max_streams
        self.methods: dict[str, Any] = {}
        self.connections: set[_Connection] = set()
        self.stopping = False
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Nothing: generated code also registers each method by its name, and that is what is used."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Serve a service's methods."""
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=sock)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; those in hand end within `grace_s`, or are cancelled."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.say_goodbye()
        try:
            async with asyncio.timeout(grace_s):
                await self._left()
        except TimeoutError:
            log.warning("calls of %d gRPC connections did not end in time", len(self.connections))
        for connection in tuple(self.connections):
            connection.transport.abort()

    def leave(self, connection: "_Connection") -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def _left(self) -> None:
        while self.connections:
            self._empty.clear()
            await self._empty.wait()


class _Connection(Connection):
    receive_window = _WINDOW
    connection_window = _CONNECTION_WINDOW

    def __init__(self, server: GrpcServer) -> None:
        super().__init__()
        self.server = server
        self.held_bytes = 0  # received of requests that no handler has taken yet
        self._greeted = False
        self._last_stream = 0
        self._resets = float(_MAX_RESETS)
        self._resets_at = time.monotonic()
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce what we take."""
        super().connection_made(transport)
        self.server.connections.add(self)
        limits = ((MAX_CONCURRENT_STREAMS, self.server.max_streams), (INITIAL_WINDOW_SIZE, _WINDOW))
        self.transport.write(settings((*ANNOUNCED, *limits)) + window_update(0, _CONNECTION_WINDOW - 65_535))
        self._watch = asyncio.get_running_loop().call_later(PREFACE_TIMEOUT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what was done for the client."""
        self.server.leave(self)
        if self._watch is not None:
            self._watch.cancel()
        for stream in tuple(self.streams.values()):
            stream.drop()
        self.streams.clear()

    def data_received(self, data: bytes) -> None:
        """Take the preface, and then frames."""
        if not self._greeted:
            self._buffer += data
            begin = bytes(self._buffer[: len(PREFACE)])
            if not PREFACE.startswith(begin):
                self.transport.abort()
                return
            if len(begin) < len(PREFACE):
                return
            self._greeted = True
            data = bytes(self._buffer[len(PREFACE) :])
            self._buffer.clear()
        super().data_received(data)

    def say_goodbye(self) -> None:
        """Take no more streams; close when the last one has ended."""
        self.closing = True
        if not self.transport.is_closing():
            self.transport.write(goaway(self._last_stream, Code.NO_ERROR))
            self.close_if_done()

    def close_if_done(self) -> None:
        """Close after the last stream of a connection that said goodbye."""
        if self.closing and not self.streams:
            self.transport.close()

    def on_headers(self, stream: int, fields: Fields, ended: bool) -> None:
        """Begin a call."""
        if stream in self.streams:
            self._end_of_request(stream, ended)  # trailers of a request: gRPC has none
            return
        if stream % 2 == 0 or stream <= self._last_stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a stream is opened twice, or not by a client")
        self._last_stream = stream
        if self.closing or len(self.streams) >= self.server.max_streams:
            self.transport.write(reset(stream, Code.REFUSED_STREAM))
            return
        if fields.get(":method") != "POST" or not fields.get("content-type", "").startswith("application/grpc"):
            status = b"405" if fields.get(":method") != "POST" else b"415"
            self.transport.write(
                self.headers(stream, END_STREAM, header_block((b":status", status))) + reset(stream, Code.NO_ERROR)
            )
            return
        call = _Call(self, stream, fields)
        self.streams[stream] = call
        call.begin()
        if ended:
            call.end_of_request()

    def on_data(self, stream: int, data: bytes, ended: bool) -> None:
        """Pass a part of a request on."""
        call = self.streams.get(stream)
        if call is not None:
            call.take(data)
            if ended and stream in self.streams:
                call.end_of_request()

    def on_reset(self, stream: int, code: int) -> None:
        """Cancel a call; a client that does nothing but open and reset is left."""
        now = time.monotonic()
        self._resets = min(self._resets + (now - self._resets_at) * _RESETS_PER_S, _MAX_RESETS) - 1
        self._resets_at = now
        if self._resets < 0:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many streams are opened and reset")
        call = self.streams.pop(stream, None)
        if call is not None:
            call.drop()
            self.close_if_done()

    def _end_of_request(self, stream: int, ended: bool) -> None:
        if not ended:
            raise ProtocolError(Code.PROTOCOL_ERROR, "headers in the middle of a stream")
        self.streams[stream].end_of_request()

    def _check_opened(self, stream: int) -> None:
        if stream == 0 or stream % 2 == 0 or stream > self._last_stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a frame on a stream that was never opened")

    def _look(self) -> None:
        if not self._greeted:
            self.transport.abort()
            return
        now = time.monotonic()
        for call in tuple(self.streams.values()):
            call.expect(now)
        self._watch = asyncio.get_running_loop().call_later(_WATCH_S, self._look)


class _Call(Stream):
    """One call, and what its servicer sees as the context."""

    def __init__(self, connection: _Connection, number: int, fields: Fields) -> None:
        super().__init__(number, connection.peer_window)
        self._connection = connection
        self._fields = fields
        self._handler: Any = None
        self._buffer = bytearray()
        self._messages: list[bytes] = []
        self._arrived: asyncio.Event | None = None  # of a request stream: a message, or its end
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._started = time.monotonic()
        self._headers_sent = False
        self._code = _OK
        self._details = ""
        self._trailers: tuple[tuple[bytes, bytes], ...] = ()
        self._initial: tuple[tuple[bytes, bytes], ...] = ()

    # What a servicer calls

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None when it set none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The client's metadata."""
        return tuple((k, v) for k, v in self._fields.items() if not k.startswith((":", "grpc-")))

    def peer(self) -> str:
        """The client's address."""
        address = self._connection.transport.get_extra_info("peername")
        return str(address[0]) if address else ""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """End the call with a status."""
        self._code, self._details = code, details
        self.set_trailing_metadata(trailing_metadata)
        raise Abort

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the call will end with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """What the status is about."""
        self._details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Metadata to end with."""
        self._trailers = tuple((k.encode(), v.encode()) for k, v in metadata or ())

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Metadata to begin with."""
        self._initial = tuple((k.encode(), v.encode()) for k, v in metadata or ())

    def cancelled(self) -> bool:
        """Whether the client went away."""
        return self._task is not None and self._task.cancelled()

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._task is not None and self._task.done()

    # What the connection calls

    def begin(self) -> None:
        """Find the method, and start the client's clock."""
        self._handler = self._connection.server.methods.get(self._fields.get(":path", ""))
        if self._handler is None:
            self._refuse(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {self._fields.get(':path', '')!r:.120}")
            return
        if self._fields.get("grpc-encoding", "identity") not in ("identity", "gzip"):
            self._trailers = ((b"grpc-accept-encoding", b"identity,gzip"),)
            self._refuse(grpc.StatusCode.UNIMPLEMENTED, "expected messages in identity or gzip encoding")
            return
        timeout = self._fields.get("grpc-timeout")
        if timeout is not None:
            self._start_clock(timeout)
        if self._handler is not None and self._handler.request_streaming:
            self._start(self._stream_requests())

    def take(self, data: bytes) -> None:
        """Take a part of the request."""
        self._buffer += data
        self._connection.held_bytes += len(data)
        limit = self._connection.server.max_message_bytes
        while len(self._buffer) >= _PREFIX_BYTES:
            size = int.from_bytes(self._buffer[1:_PREFIX_BYTES], "big")
            if size > limit:
                self._refuse(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"expected a message of at most {limit} bytes, got {size}"
                )
                return
            if len(self._buffer) < _PREFIX_BYTES + size:
                break
            message = bytes(self._buffer[_PREFIX_BYTES : _PREFIX_BYTES + size])
            compressed = self._buffer[0]
            del self._buffer[: _PREFIX_BYTES + size]
            if compressed:
                inflated = _inflate(message, limit)
                if inflated is None:
                    self._refuse(
                        grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message is no gzip, or longer than {limit} bytes"
                    )
                    return
                message = inflated
            self._messages.append(message)
            if len(self._messages) > (_MAX_PENDING_MESSAGES if self._handler.request_streaming else 1):
                self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "more messages came than are taken at a time")
                return
            if self._arrived is not None:
                self._arrived.set()
        if self._connection.held_bytes > 4 * limit:
            self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much has arrived on this connection that waits")

    def end_of_request(self) -> None:
        """All of the request is here."""
        self._ended = True
        if self._arrived is not None:
            self._arrived.set()
        if self._handler.request_streaming:
            return
        if len(self._messages) != 1 or self._buffer:
            self._refuse(grpc.StatusCode.INTERNAL, f"expected one whole message, got {len(self._messages)}")
            return
        self._release()
        self._start(self._messages.pop())

    def drop(self) -> None:
        """The client is gone: stop."""
        self._release()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def expect(self, now: float) -> None:
        """Refuse a request that takes too long to arrive."""
        waiting = not self._ended and not self._handler.request_streaming
        if waiting and now - self._started > MESSAGE_TIMEOUT_S:
            self._refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time")

    # The call itself

    def _start_clock(self, timeout: str) -> None:
        number, unit = timeout[:-1], timeout[-1:]
        if not number.isdecimal() or len(number) > 8 or unit not in _UNITS:
            self._refuse(grpc.StatusCode.INTERNAL, f"malformed grpc-timeout {timeout!r:.20}")
            return
        delay_s = int(number) * _UNITS[unit]
        self._deadline = self._started + delay_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._task is not None:
            self._task.cancel()
        self._refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "the request's time is up")

    def _start(self, request: Any) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(request))

    async def _run(self, request: Any) -> None:
        handler = self._handler
        try:
            if not handler.request_streaming:
                request = handler.request_deserializer(request)
            if handler.response_streaming:
                method: Callable[..., Any] = handler.stream_stream or handler.unary_stream
                async for response in method(request, self):
                    await self._send_message(handler.response_serializer(response))
                self._end()
                return
            method = handler.stream_unary or handler.unary_unary
            response = handler.response_serializer(await method(request, self))
            if not self._send_whole(response):
                await self._send_message(response)
                self._end()
        except Abort:
            self._end()
        except asyncio.CancelledError:
            self._connection.streams.pop(self.id, None)
        except Exception:
            log.exception("a gRPC call failed unexpectedly")
            self._code, self._details = grpc.StatusCode.UNKNOWN, "internal error; the gateway's log has the details"
            self._end()

    async def _stream_requests(self) -> AsyncIterator[Any]:
        self._arrived = asyncio.Event()
        while True:
            while self._messages:
                message = self._messages.pop(0)
                self._connection.held_bytes -= len(message) + _PREFIX_BYTES
                yield self._handler.request_deserializer(message)
            if self._ended:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def _send_whole(self, message: bytes) -> bool:
        """Answer in one write, where the windows allow it, as they nearly always do."""
        size = len(message) + _PREFIX_BYTES
        connection = self._connection
        if self._code is not _OK or self._trailers or not connection.fits(self, size):
            return False
        connection.spend(self, size)
        number = self.id
        connection.transport.write(
            connection.headers(number, 0, self._head())
            + frame(DATA, 0, number, b"\x00" + len(message).to_bytes(4, "big") + message)
            + connection.headers(number, END_STREAM, _TRAILERS)
        )
        self._close()
        return True

    async def _send_message(self, message: bytes) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self._connection.transport.write(self._connection.headers(self.id, 0, self._head()))
        await self._connection.send(self, b"\x00" + len(message).to_bytes(4, "big") + message, 0)

    def _head(self) -> bytes:
        return _RESPONSE + header_block(*self._initial) if self._initial else _RESPONSE

    def _end(self) -> None:
        """End the call with its status."""
        fields = [(b"grpc-status", str(self._code.value[0]).encode()), *self._trailers]
        if self._details:
            fields.append((b"grpc-message", quote(self._details, safe=" !#$&'()*+,/:;=?@[]\"<>\\^`{|}~").encode()))
        block = header_block(*fields)
        if not self._headers_sent:
            block = self._head() + block
        if not self._connection.transport.is_closing():
            self._connection.transport.write(self._connection.headers(self.id, END_STREAM, block))
        self._close()

    def _refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End a call that no servicer answers."""
        if self.id not in self._connection.streams:
            return
        self._code, self._details = code, details
        ended = self._ended
        if self._task is not None:
            self._task.cancel()
        self._end()
        if not ended and not self._connection.transport.is_closing():
            self._connection.transport.write(reset(self.id, Code.NO_ERROR))  # nothing more of it is read

    def _close(self) -> None:
        self._release()
        if self._timer is not None:
            self._timer.cancel()
        self._connection.streams.pop(self.id, None)
        if self._connection.closing:
            self._connection.close_if_done()

    def _release(self) -> None:
        held = len(self._buffer) + sum(len(message) + _PREFIX_BYTES for message in self._messages)
        self._connection.held_bytes -= held
        self._buffer.clear()
        if self._handler is None or self._handler.request_streaming or self.id not in self._connection.streams:
            self._messages.clear()


def _inflate(message: bytes, limit: int) -> bytes | None:
    """A gzip message, unless it is none or would be longer than the limit."""
    inflater = zlib.decompressobj(31)
    try:
        data = inflater.decompress(message, limit + 1)
    except zlib.error:
        return None
    return data if inflater.eof and len(data) <= limit else None
