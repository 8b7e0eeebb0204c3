"""What both ends of an HTTP/2 connection do alike: keep the windows, obey settings, refuse what breaks the protocol.

Source: RFC 9113. Against floods: https://www.kb.cert.org/vuls/id/605641 and 421644, CVE-2023-44487.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final, Generic

from gateway.http2 import frame as f
from gateway.http2.frame import HEAD, U32, ErrorCode, Violation
from gateway.http2.header import EMPTY_TABLE, Head, HeaderMemory, HeaderReader
from gateway.http2.message import PREFIX
from gateway.http2.reader import MAX_FRAME_BYTES, FrameReader, real
from gateway.http2.stream import Credit, Stream

log = logging.getLogger(__name__)

MAX_NUISANCES: Final = 5000  # frames a second that cost us work and bring nothing: resets, pings, empty data, ...
MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024  # of answers that the peer doesn't read
HIGH_WATER_BYTES: Final = 1024 * 1024
WRITE_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 2.0

_UNACKNOWLEDGED_TIMEOUT_MS = 30_000
_KEEPALIVE_S = 60
_BURST_BYTES = 512 * 1024
_LOW_WINDOW = f.MAX_WINDOW // 2


class Connection(FrameReader, Generic[Head]):
    """One connection. The server's and the client's own halves extend it.

    `window`: what the peer may send on a stream without asking. `credit`: what it may get on top of that.
    `max_block_bytes`: of a header block; what of it is longer than `memory` takes fails its stream only.
    """

    __slots__ = (
        "_headers",
        "_killer",
        "_nuisances",
        "_nuisances_since",
        "_recv_window",
        "_transport",
        "blocked",
        "credit",
        "fresh",
        "last_id",
        "loop",
        "max_message_bytes",
        "paused",
        "peer_frame_bytes",
        "peer_max_streams",
        "peer_window",
        "send_window",
        "streams",
        "window",
        "write_timeout_s",
    )
    _transport: asyncio.Transport

    def __init__(
        self,
        memory: HeaderMemory[Head],
        *,
        preface: bytes,
        window: int,
        max_block_bytes: int,
        max_message_bytes: int,
        credit: Credit,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        super().__init__(preface, max_header_bytes=memory.max_bytes, max_block_bytes=max_block_bytes)
        self.loop = asyncio.get_running_loop()
        self.window = window
        self.max_message_bytes = max_message_bytes
        self.credit = credit
        self.write_timeout_s = write_timeout_s
        self.streams: dict[int, Any] = {}
        self.blocked: set[Stream] = set()
        self.last_id = 0  # of the streams that the peer, or we, have opened
        self.fresh = True  # no header block has been sent
        self.paused = False  # the peer reads more slowly than we write
        self.send_window = self.peer_window = f.DEFAULT_WINDOW
        self.peer_frame_bytes = f.DEFAULT_FRAME_BYTES
        self.peer_max_streams = f.MAX_STREAM_ID
        self._headers = HeaderReader(memory)
        self._recv_window = f.MAX_WINDOW
        self._killer: asyncio.TimerHandle | None = None
        self._nuisances = 0
        self._nuisances_since = self.loop.time()

    # What a half of its own adds.

    def headers_received(self, stream_id: int, head: Head, *, ended: bool) -> None:
        """A header block has come."""
        raise NotImplementedError

    def settings_received(self) -> None:
        """The peer has said, again or for the first time, what it takes."""

    def ping_answered(self, payload: bytes) -> None:
        """The peer has answered a ping."""

    def goaway_received(self, last_id: int, why: str) -> None:
        """The peer takes no streams after this one; it needn't say why."""

    def forget(self, stream_id: int) -> None:
        """A stream is closed."""
        self.streams.pop(stream_id, None)

    # asyncio's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to speak HTTP/2."""
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        _notice_vanished_peer(transport.get_extra_info("socket"))

    def greet(self, preface: bytes, settings: dict[int, int]) -> None:
        """Say what we take."""
        ours = {
            f.HEADER_TABLE_SIZE: 0,
            f.INITIAL_WINDOW_SIZE: self.window,
            f.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            f.MAX_HEADER_LIST_SIZE: self.max_header_bytes,
        }
        self.write(preface + f.settings(ours | settings) + f.window_update(0, f.MAX_WINDOW - f.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream."""
        self.end(f"the connection was lost: {exc}" if exc else "the connection was closed by the peer")
        if self._killer is not None:
            self._killer.cancel()

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        self.paused = True

    def resume_writing(self) -> None:
        """The peer has read on."""
        self.paused = False
        self._wake_blocked()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        if self.dead:
            return
        try:
            self.read(data)
        except Violation as exc:
            log.debug("a connection is closed: %s", exc)
            self.write(f.goaway(self.last_id, exc.code, str(exc)))
            self.end(str(exc))

    def end(self, reason: str) -> None:
        """Close the connection once what was written is sent, and end every stream."""
        if self.dead:
            return
        self.dead = True
        self._transport.close()
        self._killer = self.loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)  # a peer that doesn't read on
        for stream in [*self.streams.values()]:
            if stream.close():
                stream.connection_lost(reason, unsent=False)

    # Sending.

    def write(self, data: bytes) -> None:
        """Write frames; a peer that lets too many of them pile up loses its connection."""
        if self.dead:
            return
        if self.paused and self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.debug("a connection is closed: its peer doesn't read what it is sent")
            self._transport.abort()
            self.end("the peer doesn't read what it is sent")
            return
        self._transport.write(data)

    def header_frame(self, stream_id: int, block: bytes, flags: int = 0) -> bytes:
        """HEADERS, and CONTINUATION where the block is longer than a frame."""
        if self.fresh:
            self.fresh = False
            block = EMPTY_TABLE + block
        size = self.peer_frame_bytes
        if len(block) <= size:
            return f.frame(f.HEADERS, flags | f.END_HEADERS, stream_id, block)
        parts = [f.frame(f.HEADERS, flags, stream_id, block[:size])]
        for start in range(size, len(block), size):
            last = f.END_HEADERS if start + size >= len(block) else 0
            parts.append(f.frame(f.CONTINUATION, last, stream_id, block[start : start + size]))
        return b"".join(parts)

    def fits(self, stream: Stream, size: int) -> bool:
        """Whether a message of this size, with its prefix, is small and may be sent at once."""
        return size <= min(self.send_window, stream.send_window, f.DEFAULT_FRAME_BYTES) and not self.paused

    async def send_message(
        self, stream: Stream, message: bytes, tail: Sequence[bytes | memoryview] = (), *, ends: bool = False
    ) -> None:
        """Send a message as fast as the peer takes it; returns early when the stream is closed.

        `tail` is the rest of the message, in parts of which none is empty. Raises WriteStalled when the peer takes
        nothing for too long.
        """
        prefix = PREFIX.pack(0, len(message) + sum(map(len, tail)))
        joined = len(message) < f.DEFAULT_FRAME_BYTES  # else a frame for the prefix costs less than a copy
        parts = (prefix + message, *tail) if joined else (prefix, message, *tail)
        for part in parts[:-1]:
            await self._send_data(stream, part, ends=False)
        await self._send_data(stream, parts[-1], ends=ends)

    async def _send_data(self, stream: Stream, data: bytes | memoryview, *, ends: bool) -> None:
        view = memoryview(data)
        while True:
            view = self._send_some(stream, view, ends=ends)
            if not view or stream.closed:
                return
            await stream.wait_for_room()

    def _send_some(self, stream: Stream, view: memoryview, *, ends: bool) -> memoryview:
        """Send what may be sent now; returns the rest."""
        parts: list[bytes | memoryview] = []
        while view and not self.paused and not stream.closed:
            room = min(self.send_window, stream.send_window, _BURST_BYTES)
            while view and room > 0:
                size = min(room, self.peer_frame_bytes, len(view))
                flags = f.END_STREAM if ends and size == len(view) else 0
                parts += (HEAD.pack(size << 8 | f.DATA, flags, stream.id), view[:size])
                view = view[size:]
                room -= size
                self.send_window -= size
                stream.send_window -= size
            if not parts:
                break
            self._transport.writelines(parts)
            parts = []
        return view

    def send_window_update(self, stream_id: int, size: int) -> None:
        """Let the peer send more."""
        self.write(f.window_update(stream_id, size))

    def send_reset(self, stream_id: int, code: ErrorCode) -> None:
        """Tell the peer that a stream is given up."""
        self.write(f.rst_stream(stream_id, code))

    def _wake_blocked(self) -> None:
        for stream in self.blocked:
            stream.wake()

    # Reading.

    def data_announced(self, stream_id: int, size: int, *, ends: bool) -> Stream | None:
        """Count a DATA frame against the windows; returns its stream when that still wants it."""
        if size > MAX_FRAME_BYTES:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"DATA of {size} bytes")
        self._recv_window -= size
        if self._recv_window < _LOW_WINDOW:
            self.send_window_update(0, f.MAX_WINDOW - self._recv_window)
            self._recv_window = f.MAX_WINDOW
        stream: Stream | None = self.streams.get(real(stream_id))
        if not size and not ends:
            self.nuisance()
        if stream is None:
            if self.is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was never opened")
            return None
        if stream.ended:
            raise Violation(ErrorCode.STREAM_CLOSED, "DATA after the end of its stream")
        stream.recv_window -= size
        if stream.recv_window < 0:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
        return stream

    def block_received(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Decode a header block."""
        self.headers_received(stream_id, self._headers.read(block), ended=ended)

    def control_received(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Do what a frame says."""
        match kind:
            case f.WINDOW_UPDATE:
                self._window_update(stream_id, payload)
            case f.RST_STREAM:
                self._reset(stream_id, payload)
            case f.SETTINGS:
                self._settings(flags, stream_id, payload)
            case f.PING:
                self._ping(flags, stream_id, payload)
            case f.GOAWAY:
                if stream_id:
                    raise Violation(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
                self.goaway_received(*f.read_goaway(payload))
            case f.PUSH_PROMISE:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")
            case f.PRIORITY if len(payload) != 5 or not stream_id:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY that isn't one")
            case _:
                self.nuisance()  # kinds that we don't know are to be ignored

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != U32.size:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE that isn't one")
        size = U32.unpack(payload)[0] & f.MAX_WINDOW
        if not stream_id:
            self.send_window += size
            if not size or self.send_window > f.MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR if size else ErrorCode.PROTOCOL_ERROR, "a wrong window")
            self._wake_blocked()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
        elif not size or not stream.widen(size):
            code = ErrorCode.FLOW_CONTROL_ERROR if size else ErrorCode.PROTOCOL_ERROR
            stream.reset(code)
            stream.reset_received(code)

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != U32.size:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM that isn't one")
        if self.is_idle(real(stream_id)):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        self.nuisance()
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.close()
            stream.reset_received(U32.unpack(payload)[0])

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        self.nuisance()
        if flags & f.ACK:
            if payload:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a content")
            self._headers.acknowledged()
            return
        values = f.read_settings(payload)
        if values.get(f.ENABLE_PUSH, 0) > 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        self.peer_frame_bytes = values.get(f.MAX_FRAME_SIZE, self.peer_frame_bytes)
        if not f.DEFAULT_FRAME_BYTES <= self.peer_frame_bytes < 2**24:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a MAX_FRAME_SIZE out of bounds")
        self.peer_max_streams = values.get(f.MAX_CONCURRENT_STREAMS, self.peer_max_streams)
        self._change_window(values.get(f.INITIAL_WINDOW_SIZE, self.peer_window))
        self.write(f.frame(f.SETTINGS, f.ACK, 0))
        self.settings_received()

    def _change_window(self, size: int) -> None:
        if size > f.MAX_WINDOW:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "an INITIAL_WINDOW_SIZE out of bounds")
        change, self.peer_window = size - self.peer_window, size
        for stream in self.streams.values() if change else ():
            if not stream.widen(change):
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "a wrong window")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) != 8:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise Violation(code, "PING that isn't one")
        self.nuisance()
        if flags & f.ACK:
            self.ping_answered(payload)
        else:
            self.write(f.frame(f.PING, f.ACK, 0, payload))

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody has opened a stream yet."""
        return stream_id > self.last_id or not stream_id & 1

    def nuisance(self) -> None:
        """Count a frame that brings nothing; raises Violation when they are too many in a second."""
        self._nuisances += 1
        if self._nuisances > MAX_NUISANCES:
            now = self.loop.time()
            if now - self._nuisances_since < 1:
                raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")
            self._nuisances, self._nuisances_since = 0, now


def _notice_vanished_peer(sock: socket.socket | None) -> None:
    """Let the kernel notice a peer that is gone without a word: a connection may be idle for as long as it likes."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_S // 4),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_TIMEOUT_MS),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
