"""One HTTP connection: bounded in what it may keep waiting, and answering hot requests itself.

uvicorn reads on while pipelined requests wait, so one client that never reads answers could fill the memory; and it
waits for ever for the rest of a header, and for a client to take its answers. And its way from bytes to an ASGI
application and back costs as much as all that we do for a small request: one that has arrived whole is answered from
here, by the same endpoints.

A client sends the same header again and again. The header of a request that was answered from here is kept with what
was read of it, and one of the same bytes isn't parsed again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.guard import keys_of
from gateway.hot import Endpoint, Exchange, HotEndpoints, Reply, error_reply

MAX_PIPELINED = 16
HEADER_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0  # in which a client takes nothing of its answers; as long as over gRPC
MAX_HOT_BODY_BYTES = 256 * 1024  # what is larger is read by and by, within a deadline and against a slot

_WATCH_S = 2.5
_MAX_HEADS = 1024
_MAX_HEAD_BYTES = 4096
_LENGTH_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of a hot request says: the same bytes say the same again."""

    endpoint: Endpoint
    name: str
    version: str | None
    headers: Mapping[bytes, bytes]
    keep_alive: bool
    body_bytes: int
    ring: object  # the keys by which it was admitted
    key: str | None  # whose it was


class _Cycle:
    """A hot request in hand, in the place where the server keeps its own: it looks at these attributes."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "response_complete", "task")
    task: asyncio.Task[None]

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False
        self.message_event = _NO_EVENT
        self.body = bytearray()


class _NoEvent:
    def set(self) -> None:
        """Nobody waits."""


_NO_EVENT = _NoEvent()


class GatewayProtocol(HttpToolsProtocol):
    """A connection. What has no value here is set on a subclass made by `protocol_of`."""

    endpoints: HotEndpoints
    max_connections: int
    max_body_bytes: int
    heads: dict[bytes, Head]

    _hot: Head | None = None
    _received = b""  # what arrived last, if a request began with it
    _between = True  # no request has begun to arrive without having arrived whole
    _task: asyncio.Task[None] | None = None
    _in_work: RequestResponseCycle | None = None  # by the application; `cycle` is the last that has come
    _watch: asyncio.TimerHandle | None = None
    _begun = False  # a request has begun to arrive, and not arrived whole
    _last = False  # the server is going away: what has begun is answered, and then no more
    _since = 0.0  # when the connection last began to wait for the client
    _patience_s = HEADER_TIMEOUT_S
    _unsent_bytes = 0  # of answers, at the last look
    _taken = 0.0  # when the client was last seen to take some of them, or had taken all

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first header."""
        super().connection_made(transport)
        self._parts: list[bytes] = []
        self._wait_for_client(HEADER_TIMEOUT_S)
        self._watch = self.loop.call_later(_WATCH_S, self._look)
        if len(self.connections) > self.max_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop whatever was done for the client that went away."""
        if self._watch is not None:
            self._watch.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._in_work is not None and not self._in_work.response_complete:
            self._in_work.disconnected = True
            self._in_work.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer a request whose header is known, or parse on, unless too many wait for their turn already."""
        if self._between and (self.cycle is None or self.cycle.response_complete):
            end = data.find(b"\r\n\r\n") + 4
            head = self.heads.get(data[:end])
            if head is not None and len(data) - end == head.body_bytes and head.ring is self.endpoints.access.ring:
                self._start(head, data[end:])
                return
            self._received = data
        super().data_received(data)
        self._received = b""
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of the header."""
        self._begun, self._between = True, False
        self._wait_for_client(HEADER_TIMEOUT_S)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Take a hot request, or give any other to the server."""
        self._hot = self._take()
        if self._hot is None:
            self._patience_s = 0.0  # from here on the request's own deadline holds
            self._begun = False
            super().on_headers_complete()
            if self._last:
                self.cycle.keep_alive = False
        else:
            self._wait_for_client(HEADER_TIMEOUT_S)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._hot is not None:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Start to work on a hot request, now that all of it is here."""
        self._between = True
        head, self._hot = self._hot, None
        if head is None:
            super().on_message_complete()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        self._keep(head)
        self._start(head, body)

    def on_response_complete(self) -> None:
        """Turn to the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._wait_for_client(self.timeout_keep_alive)

    def shutdown(self) -> None:
        """Close once what the client has begun to send is answered."""
        if self._begun:
            self._last = True
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Say, as every other error is said, that what came is no HTTP; and close."""
        body = orjson.dumps({"error": f"the request is not valid HTTP/1.1: {msg}"})
        self.transport.write(Reply(body, 400).encode(keep_alive=False))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_work = cycle
        super()._start_asgi_task(cycle, app)

    def _take(self) -> Head | None:
        """The request's head when it is a hot one that can be answered from here; else None."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        if b"%" in self.url or b"?" in self.url or self.expect_100_continue or self.parser.should_upgrade():
            return None
        found = self.endpoints.find(self.url.decode("latin-1"))
        headers = dict(self.headers)
        ring, key = self.endpoints.access.ring, None
        if ring is not None and (key := self.endpoints.access.holder(keys_of(headers))) is None:
            return None  # it is refused where all others are
        length = headers.get(b"content-length", b"")
        if found is None or b"transfer-encoding" in headers or b"content-encoding" in headers:
            return None
        if not length.isdigit() or len(length) > _LENGTH_DIGITS or int(length) > self.max_body_bytes:
            return None  # zeros in front may hide any length: whoever counts what comes reads those
        return Head(*found, headers, self.parser.should_keep_alive(), int(length), ring, key)

    def _keep(self, head: Head) -> None:
        """Keep a head for the next request, if it and its body are exactly what arrived together."""
        end = self._received.find(b"\r\n\r\n") + 4
        if end <= _MAX_HEAD_BYTES and len(self._received) - end == head.body_bytes:
            if len(self.heads) >= _MAX_HEADS:
                self.heads.clear()
            self.heads[self._received[:end]] = head

    def _start(self, head: Head, body: bytes) -> None:
        self._begun, self._patience_s = False, 0.0
        client = self.client[0] if self.client else None
        exchange = Exchange(head.name, head.version, head.headers, client, body, key=head.key)
        cycle = _Cycle(head.keep_alive and not self._last)
        self.cycle = cycle  # type: ignore[assignment]
        self._task = cycle.task = self.loop.create_task(self._serve(cycle, head.endpoint, exchange))
        self.tasks.add(cycle.task)

    async def _serve(self, cycle: _Cycle, endpoint: Endpoint, exchange: Exchange) -> None:
        try:
            try:
                reply = await endpoint(exchange)
            except Exception as exc:
                reply = error_reply(exc, exchange.request_id)
            if self.flow.write_paused:
                await self.flow.drain()
            if self.transport.is_closing():
                return
            self.transport.write(reply.encode(cycle.keep_alive))
            cycle.response_complete = True
            if not cycle.keep_alive:
                self.transport.close()
            self._task = None
            self.on_response_complete()
        except asyncio.CancelledError:
            pass  # the client went away
        finally:
            self.tasks.discard(cycle.task)

    def _wait_for_client(self, patience_s: float) -> None:
        self._since, self._patience_s = self.loop.time(), patience_s

    def _look(self) -> None:
        """Every few seconds: has the client kept us waiting for too long? One timer a connection is cheap."""
        now = self.loop.time()
        if self._patience_s and now - self._since > self._patience_s:
            self.transport.close()
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._taken = unsent_bytes, now
        elif now - self._taken > WRITE_TIMEOUT_S:
            self.transport.abort()  # to close it would be to wait until the client has read all
        if self in self.connections:
            self._watch = self.loop.call_later(_WATCH_S, self._look)


def protocol_of(endpoints: HotEndpoints, max_connections: int) -> type[GatewayProtocol]:
    """The protocol class over a plane's endpoints, as the server wants it."""
    members: dict[str, Any] = {
        "endpoints": endpoints,
        "max_connections": max_connections,
        "max_body_bytes": min(MAX_HOT_BODY_BYTES, endpoints.max_body_bytes),
        "heads": {},
    }
    return type("GatewayProtocol", (GatewayProtocol,), members)
