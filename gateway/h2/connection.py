"""One HTTP/2 connection, as server and client share it: frames in, flow control, header blocks, pings, the end.

Header blocks: we announce a table of size 0. Until the peer has acknowledged that, and has emptied its table, blocks
are decoded with the connection's own state. From then on a block means the same whenever it comes, and a bounded cache
of all connections answers for nearly every one.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

from hpack import Decoder, HPACKError

from gateway.h2.frame import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_MAX_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_BYTES,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Code,
    ProtocolError,
    frame,
    goaway,
    read_settings,
    window_update,
    word,
)

log = logging.getLogger(__name__)
logging.getLogger("hpack").setLevel(logging.WARNING)  # it tells every field of every block otherwise

Fields = Mapping[str, str]

MAX_HEADER_BYTES = 64 * 1024

_MAX_SENT_FRAME_BYTES = 256 * 1024  # a peer may take more, but our own write buffer shouldn't
_DEFAULT_TABLE_BYTES = 4096
_MAX_CACHED = 4096
_MAX_CACHED_BYTES = 1024
_MAX_UNSENT_BYTES = 4 * 1024 * 1024  # replies to a peer that sends and doesn't read
_MAX_IDLE_FRAMES = 10_000  # frames that carry nothing, between two that do
_cache: dict[bytes, Fields] = {}


class Stream:
    """What every stream has: the peer's window for us, and who waits for it."""

    __slots__ = ("id", "unread", "window", "window_open")

    def __init__(self, number: int, window: int) -> None:
        self.id = number
        self.window = window
        self.unread = 0  # bytes received that the peer's window isn't given back for yet
        self.window_open: asyncio.Event | None = None


class Connection(asyncio.Protocol):
    """Frames of one connection. A subclass says what headers, data and resets mean."""

    receive_window = MAX_WINDOW  # of a stream
    connection_window = MAX_WINDOW

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.streams: dict[int, Any] = {}
        self.closing = False
        self.peer_max_streams = 100
        self.peer_window = DEFAULT_WINDOW  # for a new stream
        self.peer_max_frame = DEFAULT_MAX_FRAME_BYTES
        self._window = DEFAULT_WINDOW  # for all streams together
        self._unread = 0
        self._buffer = bytearray()
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags and parts of an unfinished header block
        self._table_update = b""  # what the next header block has to begin with
        self._idle_frames = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._room = asyncio.Event()  # in the connection's window

    # What a subclass does

    def on_headers(self, stream: int, fields: Fields, ended: bool) -> None:
        """Take a whole header block."""
        raise NotImplementedError

    def on_data(self, stream: int, data: bytes, ended: bool) -> None:
        """Take a part of a message."""
        raise NotImplementedError

    def on_reset(self, stream: int, code: int) -> None:
        """Learn that the peer gave a stream up."""
        raise NotImplementedError

    def on_goaway(self, last_stream: int) -> None:
        """Learn that the peer takes no streams after this one."""

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the base class

    def pause_writing(self) -> None:
        """Wait: the peer doesn't read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Take what came; a peer that breaks the protocol is told how, and left."""
        self._buffer += data
        try:
            self._read_frames()
        except ProtocolError as exc:
            self.fail(exc.code, str(exc))
        except HPACKError as exc:
            self.fail(Code.COMPRESSION_ERROR, str(exc))

    def fail(self, code: Code, reason: str) -> None:
        """End the connection at once."""
        log.debug("closing an HTTP/2 connection: %s: %s", code.name, reason)
        if not self.transport.is_closing():
            self.transport.write(goaway(max(self.streams, default=0), code, reason.encode()[:100]))
            self.transport.close()
        self._buffer.clear()

    # Frames in

    def _read_frames(self) -> None:
        buffer, start = self._buffer, 0
        end = len(buffer)
        while end - start >= HEADER_BYTES and not self.transport.is_closing():
            size = buffer[start] << 16 | buffer[start + 1] << 8 | buffer[start + 2]
            if size > DEFAULT_MAX_FRAME_BYTES:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "a frame is larger than announced")
            first = start + HEADER_BYTES
            if end < first + size:
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            stream = int.from_bytes(buffer[start + 5 : first], "big") & MAX_WINDOW
            payload = bytes(buffer[first : first + size])
            start = first + size
            self._take(kind, flags, stream, payload)
        if self.transport.is_closing():
            buffer.clear()
        else:
            del buffer[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a header block is not continued")
        if kind == DATA:
            self._take_data(flags, stream, payload)
        elif kind == HEADERS:
            self._take_headers(flags, stream, payload)
        else:
            self._idle_frames += 1
            if self._idle_frames > _MAX_IDLE_FRAMES:
                raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")
            if self.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
                self.transport.abort()
                return
            self._take_control(kind, flags, stream, payload)

    def _take_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._take_window(stream, word(payload) & MAX_WINDOW)
        elif kind == SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == PING:
            if len(payload) != 8 or stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a malformed PING")
            if not flags & ACK:
                self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._check_opened(stream)
            self.on_reset(stream, word(payload))
        elif kind == GOAWAY:
            self.on_goaway(int.from_bytes(payload[:4], "big") & MAX_WINDOW)
        elif kind == CONTINUATION:
            self._continue(flags, payload)
        elif kind == PUSH_PROMISE:
            raise ProtocolError(Code.PROTOCOL_ERROR, "pushes are switched off")
        elif kind == PRIORITY and len(payload) != 5:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a malformed PRIORITY")
        # A frame of any other kind is to be passed over (RFC 9113, section 4.1).

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._check_opened(stream)
        self._unread += len(payload)
        if self._unread > self.connection_window:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "more data than the window allows")
        size = len(payload)
        if flags & PADDED:
            payload = _unpadded(payload)
        if payload or flags & END_STREAM:
            self._idle_frames = 0
        else:
            self._idle_frames += 1
        self.on_data(stream, payload, bool(flags & END_STREAM))
        self._give_back(stream, size, bool(flags & END_STREAM))

    def _give_back(self, number: int, size: int, ended: bool) -> None:
        """Widen the peer's windows again, before it has to wait."""
        updates = b""
        if self._unread > self.connection_window // 2:
            updates = window_update(0, self._unread)
            self._unread = 0
        stream = self.streams.get(number)
        if stream is not None and not ended:
            stream.unread += size
            if stream.unread > self.receive_window // 2:
                updates += window_update(number, stream.unread)
                stream.unread = 0
        if updates:
            self.transport.write(updates)

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "headers of no stream")
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            payload = payload[5:]
        if flags & END_HEADERS:
            self._idle_frames = 0
            self.on_headers(stream, self._decode(payload), bool(flags & END_STREAM))
        else:
            self._block = (stream, flags, bytearray(payload))

    def _continue(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a header block is continued that never began")
        stream, first_flags, parts = self._block
        parts += payload
        if len(parts) > MAX_HEADER_BYTES:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & END_HEADERS:
            self._block = None
            self.on_headers(stream, self._decode(bytes(parts)), bool(first_flags & END_STREAM))

    def _decode(self, block: bytes) -> Fields:
        stateless = self._decoder.max_allowed_table_size == 0 and self._decoder.header_table_size == 0
        if stateless:
            found = _cache.get(block)
            if found is not None:
                return found
        fields: dict[str, str] = {}
        for name, value in self._decoder.decode(block, raw=True):
            key = bytes(name).decode("latin-1")
            text = bytes(value).decode("latin-1")
            fields[key] = f"{fields[key]},{text}" if key in fields and not key.startswith(":") else text
        if stateless and len(block) <= _MAX_CACHED_BYTES:
            if len(_cache) >= _MAX_CACHED:
                _cache.clear()
            _cache[block] = fields
        return fields

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & ACK and payload):
            raise ProtocolError(Code.PROTOCOL_ERROR, "malformed SETTINGS")
        if flags & ACK:
            self._decoder.max_allowed_table_size = 0  # what we announced is in force
            return
        for key, value in read_settings(payload):
            if key == HEADER_TABLE_SIZE and value < _DEFAULT_TABLE_BYTES:
                self._table_update = b"\x20"  # RFC 7541, section 4.2: say that we have heard; we use none anyway
            elif key == MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            elif key == MAX_FRAME_SIZE:
                if not DEFAULT_MAX_FRAME_BYTES <= value < 2**24:
                    raise ProtocolError(Code.PROTOCOL_ERROR, "a maximum frame size out of range")
                self.peer_max_frame = min(value, _MAX_SENT_FRAME_BYTES)
            elif key == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window out of range")
                for each in self.streams.values():
                    each.window += value - self.peer_window
                    _open(each)
                self.peer_window = value
        self.transport.write(frame(SETTINGS, ACK, 0))

    def _take_window(self, stream: int, size: int) -> None:
        if size == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window update of 0")
        if stream == 0:
            self._window += size
            if self._window > MAX_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window out of range")
            self._room.set()
            return
        self._check_opened(stream)
        found = self.streams.get(stream)
        if found is not None:
            found.window += size
            if found.window > MAX_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window out of range")
            _open(found)

    def _check_opened(self, stream: int) -> None:
        """ProtocolError for a stream that never was."""
        raise NotImplementedError

    # Frames out

    def headers(self, stream: int, flags: int, block: bytes) -> bytes:
        """A HEADERS frame, to be written at once: blocks go out in the order in which they are made."""
        if self._table_update:
            block, self._table_update = self._table_update + block, b""
        return frame(HEADERS, END_HEADERS | flags, stream, block)

    def fits(self, stream: Stream, size: int) -> bool:
        """Whether a frame of data of that size can be sent right now."""
        return (
            size <= self.peer_max_frame and size <= stream.window and size <= self._window and self._writable.is_set()
        )

    def spend(self, stream: Stream, size: int) -> None:
        """Take from the windows what is about to be sent."""
        stream.window -= size
        self._window -= size

    async def send(self, stream: Stream, data: bytes, flags: int) -> None:
        """Send data of any size, as the windows allow; must be cancelled when the stream's time is up."""
        view = memoryview(data)
        while True:
            await self._writable.wait()
            size = min(len(view), self.peer_max_frame, stream.window, self._window)
            if size <= 0 and view:
                await self._wait_for_room(stream)
                continue
            last = size == len(view)
            self.spend(stream, size)
            self.transport.write(frame(DATA, flags if last else 0, stream.id, bytes(view[:size])))
            view = view[size:]
            if last:
                return

    async def _wait_for_room(self, stream: Stream) -> None:
        if stream.window <= 0:
            if stream.window_open is None:
                stream.window_open = asyncio.Event()
            stream.window_open.clear()
            await stream.window_open.wait()
        else:
            self._room.clear()
            await self._room.wait()


def _open(stream: Stream) -> None:
    if stream.window_open is not None and stream.window > 0:
        stream.window_open.set()


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


ANNOUNCED = ((HEADER_TABLE_SIZE, 0),)
